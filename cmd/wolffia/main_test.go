// The tests of this package run wolffia as people do: as a process, against
// the real archive and the real kernel. Nothing is mocked; where an archive
// has to misbehave, a server in the test stands before the real one and
// spoils what it hands on.
//
// The test binary is wolffia, too: a copy of it called "wolffia" runs main.
// Every call of it is made as an ordinary user: as root, the tests use an
// account that owns nothing; otherwise the one that they run as. A few tests
// say that they want root and take it where they can: in a user namespace if
// need be.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/host/hosttest"
	"wolffia/internal/machine/keeper"
)

// withoutXStateEnv makes the test binary a program that runs another one on an
// older processor: see [hosttest.HideXState].
const withoutXStateEnv = "WOLFFIA_TEST_WITHOUT_XSTATE"

func TestMain(m *testing.M) {
	keeper.Main()
	if os.Getenv(withoutXStateEnv) != "" {
		err := hosttest.HideXState()
		if err == nil {
			err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if filepath.Base(os.Args[0]) == "wolffia" {
		main()
	}
	flag.Parse()
	// Tests that only wait (for a mirror that hangs) run beside those that
	// boot machines; [parallel] bounds the latter.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "wolffia-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stage.dir = dir
	status := m.Run()
	if err := removeAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// stage is the folder in which all tests happen; TestMain makes and removes it.
var stage struct {
	dir string
}

// removeAll is os.RemoveAll for folders whose permissions a test took away.
func removeAll(dir string) error {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// program is the test binary under the name wolffia, where everybody may run
// it.
var program = sync.OnceValues(func() (string, error) {
	if err := os.Chmod(stage.dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(stage.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return "", err
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer self.Close()
	path := filepath.Join(bin, "wolffia")
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(out, self); err != nil {
		return "", err
	}
	if err := out.Chmod(0o755); err != nil {
		return "", err
	}
	return path, out.Close()
})

// plainProgram is wolffia as people have it, where the test binary is not:
// the race detector multiplies the time that moving bytes takes. It has the
// test binary's build id, by which the cache tells what another build of
// wolffia made: the two are of the same source, and make the same.
var plainProgram = sync.OnceValues(func() (string, error) {
	path, err := program()
	if err != nil || !raceDetector {
		return path, err
	}
	path = filepath.Join(filepath.Dir(path), "plain", "wolffia")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	id, err := exec.Command("go", "tool", "buildid", filepath.Join(filepath.Dir(filepath.Dir(path)), "wolffia")).Output()
	if err != nil {
		return "", fmt.Errorf("go tool buildid: %w", err)
	}
	build := exec.Command("go", "build", "-ldflags=-buildid="+strings.TrimSpace(string(id)), "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o755)
})

// slots are the machines that may run at the same time.
var slots = make(chan struct{}, 3)

// parallel lets a test run beside others that boot machines.
func parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
}

// eventually tries until ok says yes, for at most limit.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", limit, what)
		}
	}
}
