package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	labfile "wolffia/internal/lab"
	"wolffia/internal/supervisor"
	"wolffia/internal/tooltest"
)

// vlanFile has the host on a VLAN of a network, and a network on a VLAN of the
// host's uplink.
const vlanFile = `
networks:
  lan: {gateway: none, vlans: {10: {subnet: 192.168.10.0/24, uplink: {address: 192.168.10.1, masquerade: true}}}}
  thirty: {uplink: {interface: eth0, tag: 30}}
machines:
  ten: {networks: [{network: lan, vlan: 10}]}
  carl: {networks: [thirty]}
`

// TestHostVLANs runs hostnet's own test of VLANs of the host in a machine, as its
// root, whose kernel is sure to know 802.1Q: this host's may not. The plan is that of a file.
func TestHostVLANs(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	spec, err := labfile.Parse("wolffia.yaml", []byte(small+vlanFile))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := json.Marshal(supervisor.HostPlan("/labs/vlans-0123abcd", spec))
	if err != nil {
		t.Fatal(err)
	}
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
		CI=true WOLFFIA_TEST_VLANS="$0" exec /test -test.v -test.run '^TestVLANs$'`, string(plan))
	if o := p.try(t, call{program: p.plain(t), stdin: test, limit: cold}, args...); o.status != 0 {
		t.Error(o)
	}
}
