package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// machines are the names that uname has for Debian's architectures.
var machines = map[string]string{
	"amd64": "x86_64", "i386": "i686", "arm64": "aarch64", "armhf": "armv7l", "riscv64": "riscv64",
}

// TestArchitectures boots a machine of every architecture under QEMU, as an
// ordinary user: the network, ssh and scp over a forward, strace and tcpdump.
func TestArchitectures(t *testing.T) {
	parallel(t)
	scp := tooltest.Require(t, "scp", "openssh-client")
	p := newPerson(t)
	h := serveHost(t)
	h.web.HandleFunc("/arch", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "from the host") })
	id := newIdentity(t)
	for arch, machine := range machines {
		t.Run(arch, func(t *testing.T) {
			dir, port := p.folder(t, arch), freePort(t)
			p.write(t, filepath.Join(dir, "wolffia.yaml"), fmt.Sprintf(`
images:
  base:
    arch: %s
    packages: [busybox-static, dropbear-bin, openssh-sftp-server, strace, tcpdump]
    users: [{name: root, keys: [%q]}]
    services: [dropbear]
networks: {lan: {}}
machines:
  box: {image: base, backend: qemu, memory: 256M, networks: [lan], forwards: ["127.0.0.1:%d:22"]}
`, arch, id.public, port))
			guest := p.start(t, call{program: p.plain(t), dir: dir}, "run", "-q", "--", "sh", "-c", fmt.Sprintf(`uname -m
				wget -q -O - http://10.0.2.2:%d/arch
				strace -o /tmp/trace ls / >/dev/null && grep -o '^getdents64(3' /tmp/trace | head -n 1
				tcpdump --immediate-mode -n -i eth0 -c 2 icmp >/tmp/dump 2>/tmp/said &
				until grep -q 'listening on' /tmp/said; do sleep 0.1; done
				ping -c 1 10.0.2.2 >/dev/null; wait; grep -o 'ICMP echo [a-z]*' /tmp/dump
				echo ready; while :; do sleep 1000; done`, h.port))
			want := fmt.Sprintf("%s\nfrom the host\ngetdents64(3\nICMP echo request\nICMP echo reply\nready\n", machine)
			guest.out.within(t, cold, "ready\n")
			if got := guest.out.String(); got != want {
				t.Errorf("got %q, want %q\n%s", got, want, guest.err)
			}
			out, err := exec.CommandContext(t.Context(), tooltest.Require(t, "ssh", "openssh-client"),
				append(id.flags("-p", port), "root@127.0.0.1", "hostname; id -un")...).CombinedOutput()
			if err != nil || string(out) != "box\nroot\n" {
				t.Errorf("ssh: %v, %q", err, out)
			}
			for _, way := range [][]string{{id.key + ".pub", "root@127.0.0.1:/tmp/copy"}, {"root@127.0.0.1:/tmp/copy", filepath.Join(id.dir, arch)}} {
				if out, err := exec.CommandContext(t.Context(), scp, append(id.flags("-P", port), way...)...).CombinedOutput(); err != nil {
					t.Fatalf("scp %q: %v\n%s", way, err, out)
				}
			}
			copied, err := os.ReadFile(filepath.Join(id.dir, arch))
			if err != nil || strings.TrimSpace(string(copied)) != id.public {
				t.Errorf("copied %q, %v", copied, err)
			}
			p.stop(t, guest)
		})
	}
}

// identity is a key of OpenSSH's, of the account that runs the tests: OpenSSH
// wants one with a name.
type identity struct{ dir, key, public string }

func newIdentity(t *testing.T) identity {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "id")
	keygen := tooltest.Require(t, "ssh-keygen", "openssh-client")
	if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return identity{dir, key, strings.TrimSpace(string(public))}
}

// flags are those of ssh and scp, of which one says the port by -p and the
// other by -P.
func (i identity) flags(portFlag string, port int) []string {
	return []string{
		"-F", "none", portFlag, fmt.Sprint(port), "-i", i.key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + filepath.Join(i.dir, fmt.Sprintf("known-%d", port)),
		"-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20",
	}
}

// TestEntropy: a guest has randomness by the time that somebody can log in, so
// that nothing waits for it, and the host's device goes on to give some.
func TestEntropy(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	for name, flags := range map[string][]string{"uml": {"--backend", "uml"}, "amd64": {"--backend", "qemu"}, "arm64": {"--arch", "arm64"}} {
		t.Run(name, func(t *testing.T) {
			o := p.run(t, call{program: p.plain(t), limit: cold}, append(append([]string{"run", "-q"}, flags...), "--", "sh", "-c",
				// Its driver comes when everything else is done.
				"read up rest </proc/uptime; dmesg; echo login at $up s; cd /sys/class/misc/hw_random; "+
					"for i in $(seq 300); do read s <rng_current && [ $s != none ] && break; sleep 0.1; done; echo $s")...)
			ready := regexp.MustCompile(`(?m)^(.*)random: crng init done$`).FindStringSubmatch(o.out)
			if ready == nil {
				t.Fatalf("the kernel has no randomness yet: %v", o)
			}
			_, login, _ := strings.Cut(o.out, "login at ")
			t.Logf("randomness at %q, login at %s", ready[1], login)
			if !strings.Contains(login, "\nvirtio_rng.") && !strings.Contains(login, "\nhw_random") { // User-Mode Linux has its own
				t.Errorf("its source is none of the host's: %q", login)
			}
		})
	}
}
