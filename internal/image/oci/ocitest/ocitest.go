// Package ocitest runs a real registry for tests.
//
//	addr := ocitest.Registry(t, "")
//	oci.Push(ctx, dir, addr+"/name:tag", oci.RegistryOptions{})
package ocitest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"wolffia/internal/tooltest"
)

// listening is what the registry logs when it is ready.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// Registry runs a registry on loopback for as long as the test, and gives its
// address. more is YAML for the end of its configuration. The person's own
// credentials are kept out of the test.
func Registry(t *testing.T, more string) string {
	t.Helper()
	NoCredentials(t)
	tool := tooltest.Require(t, "docker-registry", "docker-registry")
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	err := os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0"}
%s`, dir, more), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "serve", config)
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	addr, drained := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(drained)
		defer close(addr)
		for s := bufio.NewScanner(log); s.Scan(); {
			if said, _, _ := strings.Cut(s.Text(), " go.version="); !strings.Contains(said, "level=info") {
				fmt.Fprintln(&lines, said)
			}
			if m := listening.FindStringSubmatch(s.Text()); m != nil {
				addr <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-drained
		cmd.Wait()
		if t.Failed() {
			t.Logf("the registry says:\n%s", lines.String())
		}
	})
	a, ok := <-addr
	if !ok {
		t.Fatal("the registry ended")
	}
	return a
}

// NoCredentials keeps the person's own out of the test.
func NoCredentials(t *testing.T) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(t.TempDir(), "none"))
}
