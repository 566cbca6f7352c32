package main

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// example copies a folder of examples/ to the person's home.
func (p *person) example(t *testing.T, name string) string {
	t.Helper()
	from := filepath.Join("..", "..", "examples", name)
	dir := p.folder(t, name)
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, e.Name())
		p.write(t, to, string(text))
		if info, err := e.Info(); err != nil {
			t.Fatal(err)
		} else if err := os.Chmod(to, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// documented holds the tests to commands that the page really has.
func documented(t *testing.T, command string) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+command) {
		t.Errorf("docs/examples.md has no command %q", command)
	}
	return strings.Fields(strings.TrimPrefix(command, "wolffia "))
}

func TestExampleEarlyUserspace(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	dir := p.example(t, "early-userspace")
	c := call{program: p.plain(t), dir: dir, limit: cold}
	typed := "echo $((6*7)) an''swers\nexit\n"
	c.stdin = strings.NewReader(typed)
	o := p.run(t, c, documented(t, "wolffia run early")...)
	if !strings.Contains(o.out, "Boot took ") || !strings.Contains(o.out, "42 answers") {
		t.Error(o)
	}
	// A kernel of one's own, without modules: the network card's driver is one.
	p.write(t, filepath.Join(dir, "vmlinuz"), pcKernelOf(t, p, c, "early"))
	c.stdin = strings.NewReader(typed)
	o = p.run(t, c, "run", "early", "--kernel", "./vmlinuz")
	if !strings.Contains(o.out, "42 answers") {
		t.Error(o)
	}
}

func TestExampleDisk(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	c := call{program: p.plain(t), dir: p.example(t, "disk"), limit: cold}
	p.run(t, c, documented(t, "wolffia build -o disk.img")...)
	o := p.run(t, c, documented(t, "wolffia image info disk.img")...)
	if !strings.Contains(o.out, "partition 3: root-amd64") || !strings.Contains(o.out, "ext4") {
		t.Error(o)
	}
	o = p.run(t, c, documented(t, "wolffia image ls disk.img:/boot")...)
	if !strings.Contains(o.out, "vmlinuz") {
		t.Error(o)
	}
	documented(t, "wolffia run --boot uefi") // see TestFirmware and TestDisk
}

func TestExampleARM64(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-aarch64", "qemu-system-arm")
	p := newPerson(t)
	c := call{program: p.plain(t), dir: p.example(t, "arm64-ssh"), limit: cold}
	o := p.run(t, c, documented(t, "wolffia run -- uname -m")...)
	if o.out != "aarch64\n" {
		t.Error(o)
	}
	r := p.start(t, c, "run", "-q", "--", "sh", "-c", "echo ready; while :; do sleep 1000; done")
	r.out.within(t, cold, "ready\n")
	conn, err := net.DialTimeout("tcp4", "127.0.0.1:5522", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "SSH-2.0-dropbear") {
		t.Errorf("port 5522 says %q, %v", line, err)
	}
}
