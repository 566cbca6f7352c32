package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wolffia/internal/tooltest"
)

// TestHostVLANs runs hostnet's own test of VLANs of the host in a machine, as its
// root, whose kernel is sure to know 802.1Q: this host's may not.
func TestHostVLANs(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	name := filepath.Join(t.TempDir(), "hostnet.test")
	compile := exec.Command("go", "test", "-c", "-o", name, "wolffia/internal/hostnet")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	test, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer test.Close()
	args := []string{"run", "-q", "--backend", "qemu", "--arch", "amd64", "--memory", "512M"}
	for _, name := range []string{"bash", "diffutils", "iproute2", "iputils-ping", "nftables", "procps", "util-linux"} {
		args = append(args, "--package", name)
	}
	for _, name := range []string{"8021q", "bridge", "nft_chain_nat", "nft_masq", "tun", "veth"} {
		args = append(args, "--module", name)
	}
	// Busybox's shell would take its own ip.
	args = append(args, "--", "bash", "-ec", `
		mkdir /shell; ln -s /usr/bin/bash /shell/sh; export PATH=/shell:$PATH
		cat >/test; chmod +x /test; cd /
		CI=true WOLFFIA_TEST_8021Q=1 exec /test -test.v -test.run '^TestVLANs$'`)
	if o := p.try(t, call{program: p.plain(t), stdin: test, limit: cold}, args...); o.status != 0 {
		t.Error(o)
	}
}
