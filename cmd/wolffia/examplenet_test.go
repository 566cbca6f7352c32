package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// excerpts holds the pieces of files on a page about an example to the files.
func excerpts(t *testing.T, page, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", page))
	if err != nil {
		t.Fatal(err)
	}
	var files strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files.Write(append(b, 0))
	}
	for _, b := range regexp.MustCompile("(?sm)^```(yaml|shell|conf)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(files.String(), b[2]) {
			t.Errorf("no file of the example has this:\n%s", b[2])
		}
	}
}

// typed runs the commands of a part of a page about an example, and holds what
// they print to what the page says. The part is what stands between two headings.
func (p *person) typed(t *testing.T, page, heading, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", page))
	if err != nil {
		t.Fatal(err)
	}
	_, part, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no part %q", page, heading)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	bin := p.folder(t, "bin")
	if err := os.Symlink(p.plain(t), filepath.Join(bin, "wolffia")); err != nil {
		t.Fatal(err)
	}
	c := call{dir: dir, program: "sh", limit: cold, env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}}
	said := ""
	for _, b := range regexp.MustCompile("(?sm)^```(sh|text)\n(.*?)^```$").FindAllStringSubmatch(part, -1) {
		if b[1] == "text" {
			holds(t, said, b[2])
			continue
		}
		for line := range strings.Lines(b[2]) {
			command := strings.TrimPrefix(strings.TrimSpace(line), "sudo ")
			switch {
			case strings.HasPrefix(command, "cd "):
			case strings.HasPrefix(command, "ssh "):
				said = login(t, command)
			default:
				said = p.run(t, c, "-ec", command).out
			}
		}
	}
}

// holds compares what was said with a page's piece, in which "…" is anything.
func holds(t *testing.T, said, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(want) {
		lines = append(lines, strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(line)), "…", "[^\n]*"))
	}
	if !regexp.MustCompile("(?s)" + strings.Join(lines, ".*")).MatchString(said) {
		t.Errorf("the page says\n%s\nand there was\n%s", want, said)
	}
}

// login types a command of ssh's, and the password of root in the examples. It
// does so as whoever runs the tests: ssh wants an account with a name.
func login(t *testing.T, command string) string {
	t.Helper()
	tooltest.Require(t, "ssh", "openssh-client")
	ask := filepath.Join(t.TempDir(), "ask")
	if err := os.WriteFile(ask, []byte("#!/bin/sh\necho wolffia\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", "ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "+strings.TrimPrefix(command, "ssh "))
	cmd.Env = append(os.Environ(), "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// TestExampleEarlyUserspaceNetwork types what the page says about early userspace
// on a network that needs no privilege.
func TestExampleEarlyUserspaceNetwork(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	tooltest.Require(t, "qemu-img", "qemu-utils")
	p := newPerson(t)
	dir := p.example(t, "early-userspace")
	t.Cleanup(func() { p.try(t, call{dir: dir}, "down", "-f", "network.yaml") })
	excerpts(t, "early-userspace-network.md", dir)
	p.typed(t, "early-userspace-network.md", "Without root", dir)
	tshark := tooltest.Require(t, "tshark", "tshark")
	out, err := exec.Command(tshark, "-r", filepath.Join(dir, "boot.pcapng"), "-Y", "dhcp", "-T", "fields", "-e", "dhcp.option.dhcp").Output()
	if err != nil || !strings.HasPrefix(string(out), "1\n2\n3\n5\n") { // discover, offer, request, acknowledgement
		t.Errorf("%q, %v", out, err)
	}
}
