package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// freePort finds a TCP port of the loopback that nobody uses.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestForwardSSH leads a port of the host to the guest's dropbear, and uses it
// with OpenSSH's client: a command, its streams and status, and files both
// ways.
func TestForwardSSH(t *testing.T) {
	parallel(t)
	ssh := tooltest.Require(t, "ssh", "openssh-client")
	p := newPerson(t)
	id := newIdentity(t)
	dir, port := p.folder(t, "lab"), freePort(t)
	p.write(t, filepath.Join(dir, "wolffia.yaml"), fmt.Sprintf(`
images:
  base:
    packages: [busybox-static, dropbear-bin]
    deps: elf
    users:
      - {name: root, keys: [%q]}
      - {name: alice, keys: [%q]}
    services: [dropbear]
networks:
  lan: {}
machines:
  alice:
    image: base
    networks: [lan]
    forwards: ["127.0.0.1:%d:22"]
`, id.public, id.public, port))
	guest := p.start(t, call{dir: dir}, "run", "--", "sh", "-c", "echo ready; while :; do sleep 1000; done")
	guest.out.expect(t, "ready\n")

	client := func(stdin io.Reader, user string, argv ...string) (out string, status int) {
		t.Helper()
		args := append(append(id.flags("-p", port), user+"@127.0.0.1"), argv...)
		cmd := exec.CommandContext(t.Context(), ssh, args...)
		cmd.Stdin = stdin
		var errs bytes.Buffer
		cmd.Stderr = &errs
		b, err := cmd.Output()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if errs.Len() > 0 {
			t.Errorf("ssh %q: %s", argv, &errs)
		}
		return string(b), cmd.ProcessState.ExitCode()
	}
	if out, status := client(nil, "root", "hostname; id -u; exit 7"); out != "alice\n0\n" || status != 7 {
		t.Errorf("got %q and %d", out, status)
	}
	if out, status := client(nil, "alice", "id -un; pwd"); out != "alice\n/home/alice\n" || status != 0 {
		t.Errorf("got %q and %d", out, status)
	}
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{4}).Read(noise)
	if _, status := client(bytes.NewReader(noise), "root", "cat >/tmp/file"); status != 0 {
		t.Errorf("copy in: status %d", status)
	}
	if out, status := client(nil, "root", "cat /tmp/file"); out != string(noise) || status != 0 {
		t.Errorf("copy out: %d bytes, status %d", len(out), status)
	}
}

// TestForwardTaken says in one line that a forward's port is in use.
func TestForwardTaken(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := p.try(t, call{}, "run", "--forward", l.Addr().String()+":22", "--", "true")
	if o.status != 1 || !strings.Contains(o.err, l.Addr().String()) || strings.Count(o.err, "\n") != 1 {
		t.Error(o)
	}
}

// TestParallelConnections holds 200 connections open at the same time.
func TestParallelConnections(t *testing.T) {
	parallel(t)
	const many = 200
	p := newPerson(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan struct{}) // closed when all are there
	var served sync.WaitGroup
	served.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if n == many {
				close(all)
			}
			served.Go(func() {
				defer c.Close()
				line, err := bufio.NewReader(c).ReadString('\n')
				if err != nil {
					return
				}
				select {
				case <-all:
					io.WriteString(c, "you are "+line)
				case <-time.After(patience):
				}
			})
		}
	})
	out := p.guest(t, fmt.Sprintf(`
		i=0
		while [ $((i += 1)) -le %d ]; do echo "number $i" | nc 10.0.2.2 %d >/tmp/answer.$i & done
		wait
		cat /tmp/answer.* | sort | uniq | grep -c '^you are number'`, many, l.Addr().(*net.TCPAddr).Port), "--memory", "256M")
	l.Close()
	served.Wait()
	if strings.TrimSpace(out) != fmt.Sprint(many) {
		t.Errorf("%s of %d connections were answered", strings.TrimSpace(out), many)
	}
}

// gigabyte is how much goes each way, in bytes.
const gigabyte = 1 << 30

// TestGigabyteIn sends 1 GiB from the host to the guest.
func TestGigabyteIn(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	h := serveHost(t)
	sent := make(chan string, 1)
	h.web.HandleFunc("/noise", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(gigabyte))
		sum := sha256.New()
		io.CopyN(io.MultiWriter(w, sum), rand.NewChaCha8([32]byte{5}), gigabyte)
		sent <- fmt.Sprintf("%x  -\n", sum.Sum(nil))
	})
	o := p.run(t, call{program: plain, limit: cold}, "run", "--", "sh", "-c",
		fmt.Sprintf("wget -q -O - http://10.0.2.2:%d/noise | sha256sum", h.port))
	if want := <-sent; o.out != want {
		t.Errorf("sent %s, got %v", want, o)
	}
}

// TestGigabyteOut sends 1 GiB from the guest to the host, which answers with
// what came over the other half of the same connection.
func TestGigabyteOut(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	const piece = 16 << 20 // of noise, behind a number of eight digits and a newline
	noise := make([]byte, piece-9)
	rand.NewChaCha8([32]byte{6}).Read(noise)
	want := sha256.New()
	for i := range gigabyte / piece {
		fmt.Fprintf(want, "%08d\n", i)
		want.Write(noise)
	}
	h := serveHost(t)
	h.web.HandleFunc("/noise", func(w http.ResponseWriter, _ *http.Request) { w.Write(noise) })
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		sum := sha256.New()
		n, _ := io.Copy(sum, c) // until the guest's end of output
		fmt.Fprintf(c, "%d %x\n", n, sum.Sum(nil))
	}()
	args := append([]string{"run"}, netcat...)
	o := p.run(t, call{program: plain, limit: cold}, append(args, "--", "sh", "-ec", fmt.Sprintf(`
		wget -q -O /tmp/noise http://10.0.2.2:%d/noise
		i=0
		while [ $i -lt %d ]; do printf '%%08d\n' $i; cat /tmp/noise; i=$((i + 1)); done | nc.openbsd -N 10.0.2.2 %d`,
		h.port, gigabyte/piece, l.Addr().(*net.TCPAddr).Port))...)
	if want := fmt.Sprintf("%d %x\n", gigabyte, want.Sum(nil)); o.out != want {
		t.Errorf("want %s, got %v", want, o)
	}
}

// TestTwoRuns holds that two machines with the same addresses and names, at
// the same time, know nothing of each other.
func TestTwoRuns(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	h := serveHost(t)
	h.web.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.URL.Path) })
	var machines []*running
	var ports []int
	for i := range 2 {
		port := freePort(t)
		m := p.start(t, call{}, "run", "--forward", fmt.Sprintf("127.0.0.1:%d:80", port), "--", "sh", "-c", fmt.Sprintf(`
			printf '#!/bin/sh\necho machine %d; cat' >/tmp/serve; chmod +x /tmp/serve
			nc -ll -p 80 -e /tmp/serve &
			ip -4 -o addr show dev eth0 | grep -o '10\.0\.2\.15'
			touch /tmp/only-%d; ls /tmp | grep only
			wget -q -O - http://10.0.2.2:%d/from-%d
			ping -c 1 -W 5 10.0.2.2 | grep -c 'bytes from'
			while ! grep -q ':0050 .* 0A ' /proc/net/tcp*; do usleep 10000; done
			echo ready; sleep 1000`, i, i, h.port, i))
		machines, ports = append(machines, m), append(ports, port)
	}
	for i, m := range machines {
		m.out.expect(t, fmt.Sprintf(`^10\.0\.2\.15\nonly-%d\n/from-%d\n1\nready\n`, i, i))
	}
	for i := range machines {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", ports[i]), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		line, err := bufio.NewReader(c).ReadString('\n')
		if line != fmt.Sprintf("machine %d\n", i) {
			t.Errorf("port %d is answered by %q (%v)", ports[i], line, err)
		}
		c.Close()
	}
}
