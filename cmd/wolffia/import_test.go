package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/image/oci/ocitest"
)

// importable writes a lab of another program's into a folder of the person's,
// and takes down what becomes of it when the test ends.
func importable(t *testing.T, p *person, files map[string]string) *lab {
	t.Helper()
	l := &lab{person: p, t: t, dir: p.folder(t, "lab")}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		dir := l.dir
		for _, step := range strings.Split(filepath.Dir(name), "/") {
			dir = filepath.Join(dir, step)
			if err := p.own(dir); err != nil {
				t.Fatal(err)
			}
		}
		p.write(t, filepath.Join(l.dir, name), files[name])
	}
	t.Cleanup(func() { l.try(t, call{dir: l.dir}, "down", "--volumes") })
	return l
}

// TestImportKathara has two hosts, with static routes in their startup files,
// and between them two routers, which learn from each other by RIP.
func TestImportKathara(t *testing.T) {
	parallel(t)
	const daemons, rip = "zebra=yes\nripd=yes\nvtysh_enable=yes\n", "router rip\n network 10.0.0.0/8\n"
	l := importable(t, newPerson(t), map[string]string{
		"lab.conf": `LAB_NAME="Two routers"
LAB_DESCRIPTION="RIP between two routers"

pc1[0]="A"
pc_2[0]="C"            # a name that wolffia has another for
pc_2[exec]="echo after >>/tmp/order"
pc_2[env]="PLACE=the far end"
r1[0]="A"
r1[1]="B/02:00:00:00:00:11"
r2[0]="B"
r2[1]="C"
r2[cpus]=1
`,
		"lab.dep":             "pc1: r1 r2\n",
		"shared.startup":      "echo shared >>/tmp/order\n",
		"pc1.startup":         "ip addr add 10.0.0.1/24 dev eth0\nip route add default via 10.0.0.254\n",
		"pc1/etc/motd":        "the first host\n",
		"pc_2.startup":        "ifconfig eth0 10.2.0.1 netmask 255.255.255.0 up\r\nroute add default gw 10.2.0.254\r\necho own >>/tmp/order\r\n",
		"r1.startup":          "ifconfig eth0 10.0.0.254/24 up\nifconfig eth1 10.1.0.1/30 up\nsystemctl start frr\n",
		"r1/etc/frr/daemons":  daemons,
		"r1/etc/frr/frr.conf": rip,
		"r2.startup":          "ip addr add 10.1.0.2/30 dev eth0\nip addr add 10.2.0.254/24 dev eth1\n/etc/init.d/frr start\n",
		"r2/etc/frr/daemons":  daemons,
		"r2/etc/frr/frr.conf": rip,
	})
	o := l.run(t, call{dir: l.dir}, "import", ".")
	if !strings.Contains(o.out, "4 machines on 3 networks") || !strings.Contains(o.err, `lab.conf:5: machine "pc_2" is called pc-2`) || !strings.Contains(o.err, "lab.conf:12: r2[cpus]=1") {
		t.Error(o)
	}
	l.fails(2, "import", ".")
	l.do("up")

	l.in("pc1", "grep -q 'the first host' /etc/motd; tries=0; until ping -c 1 -W 1 10.2.0.1; do tries=$((tries + 1)); [ $tries -lt 60 ]; done")
	if out := l.in("pc1", "traceroute -n 10.2.0.1"); !strings.Contains(out, "1  10.0.0.254") || !strings.Contains(out, "2  10.1.0.2") || !strings.Contains(out, "3  10.2.0.1") {
		t.Error(out)
	}
	if out := l.in("pc-2", "cat /tmp/order; sh -lc 'echo $PLACE'"); out != "shared\nown\nafter\nthe far end\n" {
		t.Errorf("%q", out)
	}
	if out := l.in("r1", "cat /sys/class/net/eth1/address; vtysh -c 'show ip rip'"); !strings.Contains(out, "02:00:00:00:00:11") || !strings.Contains(out, "R(n) 10.2.0.0/24") {
		t.Error(out)
	}
	l.do("down")
}

// TestImportContainerlab has two hosts and a router between them, from an image
// of a registry, on disks, with what a topology can say of plain Linux.
func TestImportContainerlab(t *testing.T) {
	p := newPerson(t)
	image := ocitest.Registry(t, "") + "/tools:1"
	p.run(t, call{limit: cold}, "build", "-q", "--push", image)
	l := importable(t, p, map[string]string{
		"topology/routed.clab.yml": fmt.Sprintf(`name: routed
topology:
  defaults:
    kind: linux
    image: %s
    env: {LAB: routed}
  nodes:
    router:
      binds: [configs/motd:/etc/motd:ro]
      exec:
        - ip addr add 10.1.0.1/24 dev eth1
        - ip addr add 10.2.0.1/24 dev eth2
    client:
      env: {WHO: me and you}
      exec:
        - ip addr add 10.1.0.2/24 dev eth1
        - ip route add 10.2.0.0/24 via 10.1.0.1
        - sh -c 'echo "$$WHO on $$LAB" >/tmp/who'
    server:
      mgmt-ipv4: 172.20.20.20
      ports: ["0:80"]
      labels: {graph-icon: server}
      cmd: httpd -f -h /etc
      exec:
        - ip route add 10.1.0.0/24 via 10.2.0.1
  links:
    - endpoints: ["client:eth1", "router:eth1"]
    - type: veth
      mtu: 1400
      endpoints:
        - {node: server, interface: lan0, mac: "02:00:00:00:00:99", ipv4: 10.2.0.2/24}
        - {node: router, interface: eth2}
`, image),
		"topology/configs/motd": "the router\n",
	})
	o := l.run(t, call{dir: l.dir}, "import", "--json", "topology/routed.clab.yml")
	var said struct {
		Kind     string
		Path     string
		Machines []string
		Networks []string
		Warnings []struct {
			File, Text string
			Line       int
		}
	}
	if err := json.Unmarshal([]byte(o.out), &said); err != nil {
		t.Fatal(err, o)
	}
	if said.Kind != "containerlab" || said.Path != "wolffia.yaml" || len(said.Machines) != 3 || len(said.Networks) != 3 || len(said.Warnings) != 3 ||
		said.Warnings[2].File != "topology/routed.clab.yml" || said.Warnings[2].Line != 22 || !strings.Contains(said.Warnings[2].Text, "labels") {
		t.Errorf("%+v", said)
	}
	l.do("up")

	if out := l.in("client", "ping -c 1 -W 5 10.2.0.2; cat /tmp/who; ping -4 -c 1 -W 5 server; wget -q -O - http://10.2.0.2/hostname"); strings.Count(out, " 0% packet loss") != 2 ||
		!strings.Contains(out, "ttl=63") || !strings.Contains(out, "172.20.20.20") || !strings.Contains(out, "me and you on routed\n") {
		t.Error(out)
	}
	if out := l.in("server", "ip link show lan0"); !strings.Contains(out, "mtu 1400") || !strings.Contains(out, "02:00:00:00:00:99") {
		t.Error(out)
	}
	if out := l.in("router", "cat /etc/motd; grep ' / ' /proc/mounts"); !strings.Contains(out, "the router\n") || !strings.Contains(out, "ext4") {
		t.Error(out)
	}
	l.do("down")
}

// TestImportPage types every command of the page, with a lab of netkit's, which has
// a list of its machines and no word of what they start from, and a topology whose
// container image is nowhere.
func TestImportPage(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := importable(t, p, map[string]string{"clos.clab.yml": `name: clos
topology:
  nodes:
    leaf1: {kind: linux, image: "nowhere.invalid/leaf:1", exec: [ip addr add 10.3.0.1/24 dev eth1]}
    leaf2: {kind: linux, image: "nowhere.invalid/leaf:1"}
  links: [{endpoints: ["leaf1:eth1", "leaf2:eth1"]}]
`})
	t.Cleanup(func() { l.try(t, call{dir: l.dir}, "down", "-f", "clos.yaml", "--volumes") })
	p.folder(t, "labs")
	netkit := p.folder(t, "labs/rip")
	for name, text := range map[string]string{
		"lab.conf":    "LAB_VERSION=1.0\nmachines=\"pc1 pc2\"\npc1[0]=A\npc2[0]=A\npc2[mem]=8\n",
		"pc1.startup": "/sbin/ifconfig eth0 10.0.0.1 netmask 255.255.255.0 up\n",
		"pc2.startup": "/sbin/ifconfig eth0 10.0.0.2 netmask 255.255.255.0 up\n",
	} {
		p.write(t, filepath.Join(netkit, name), text)
	}
	bin := p.folder(t, "bin")
	if err := os.Symlink(p.plain(t), filepath.Join(bin, "wolffia")); err != nil {
		t.Fatal(err)
	}
	outputs := map[string]string{}
	for _, b := range blocks(t, "import.md") {
		for command := range strings.Lines(b.text) {
			command = strings.TrimSpace(command)
			outputs[command] = p.run(t, call{
				dir: l.dir, program: "sh", limit: cold, env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")},
				stdin: strings.NewReader("ping -c 1 -W 5 10.0.0.2\n"), // what is typed after ssh
			}, "-ec", command).out
		}
	}
	for command, want := range map[string]string{
		"wolffia ssh pc1": " 0% packet loss",
		"wolffia exec -f clos.yaml leaf1 -- ip addr": "inet 10.3.0.1/24",
	} {
		if out, ok := outputs[command]; !ok || !strings.Contains(out, want) {
			t.Errorf("%s: %q", command, out)
		}
	}
}

// TestImportOutput writes elsewhere than in the lab's folder.
func TestImportOutput(t *testing.T) {
	p := newPerson(t)
	l := importable(t, p, map[string]string{"k/lab.conf": "a[0]=A\nb[0]=A\n", "k/a.startup": "ip addr add 10.0.0.1/24 dev eth0\n"})
	shown := l.do("import", "k", "-o", "-")
	if !strings.Contains(shown, "{from: ./k/a.startup, path: /hostlab/a.startup}") {
		t.Error(shown)
	}
	l.do("import", "k", "-o", "k/other.yaml", "-q")
	text, err := os.ReadFile(filepath.Join(l.dir, "k", "other.yaml"))
	if err != nil || !strings.Contains(string(text), "{from: ./a.startup, path: /hostlab/a.startup}") {
		t.Errorf("%v\n%s", err, text)
	}
	l.do("import", "k/lab.conf", "-o", "k/other.yaml", "--force")
	p.write(t, filepath.Join(l.dir, "k", "lab.conf"), "a[0]=A\nb[0]\n\nc[1]=\"B\n")
	if o := p.try(t, call{dir: l.dir}, "import", "k"); o.status != 2 || !strings.Contains(o.err, "k/lab.conf:2:1: ") || !strings.Contains(o.err, "k/lab.conf:4:1: ") {
		t.Error(o)
	}
	for _, path := range []string{"nowhere", "."} {
		if o := p.try(t, call{dir: l.dir}, "import", path); o.status != 2 || !oneLine(o.err) {
			t.Error(o)
		}
	}
}
