package importer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/lab"
)

// load imports a lab of testdata.
func load(t *testing.T, dir, name string, o Options) *Result {
	t.Helper()
	r, err := Import(os.DirFS(filepath.Join("testdata", dir)), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// said holds the warnings to those that are wanted: each begins with a line's
// number and has a word in it.
func said(t *testing.T, r *Result, want ...string) {
	t.Helper()
	var got []string
	for _, w := range r.Warnings {
		got = append(got, fmt.Sprintf("%d %s", w.Line, w.Text))
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) {
			t.Fatalf("%d warnings, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
		}
		line, word, _ := strings.Cut(want[i], " ")
		if !strings.HasPrefix(got[i], line+" ") || !strings.Contains(got[i], word) {
			t.Errorf("warning %q, want %q", got[i], want[i])
		}
	}
}

func cardsOf(m *lab.Machine) string {
	var out []string
	for _, c := range m.Cards {
		out = append(out, strings.TrimSpace(fmt.Sprint(c.Network, " ", c.Config, " ", c.MAC)))
	}
	return strings.Join(out, ", ")
}

func TestKathara(t *testing.T) {
	r := load(t, "rip", "lab.conf", Options{Dir: "rip", Debian: true})
	s := r.Spec
	if r.Kind != Kathara || s.Name != "rip" || len(s.Images) != 1 || !strings.Contains(string(r.File), "# description: Two routers\n# author: nobody\n") {
		t.Errorf("%+v\n%s", s, r.File)
	}
	for name, want := range map[string]string{
		"pc1": "a none", "pc2": "c none, outside", "r1": "a none, b none", "r2": "b none 02:00:00:00:00:22, c none",
	} {
		if got := cardsOf(s.Machines[name]); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if m := s.Machines["pc1"]; m.Memory != 128*lab.MiB || m.Forwarding || s.Machines["r1"].Memory != 256*lab.MiB || !s.Machines["r1"].Forwarding {
		t.Errorf("%+v", m)
	}
	if f := s.Machines["pc2"].Forwards; len(f) != 1 || f[0].String() != "127.0.0.1:8080:80" {
		t.Error(f)
	}
	said(t, r, "7 128M", "12 127.0.0.1", "17 Debian packages", "19 num_terms", "22 Debian packages", "23 the shell")
	said(t, load(t, "rip", "lab.conf", Options{}), "7 128M", "12 127.0.0.1", "19 num_terms", "23 the shell")
}

func TestNetkit(t *testing.T) {
	r := load(t, "netkit", "lab.conf", Options{Name: "My Labs"})
	if r.Spec.Name != "my-labs" {
		t.Error(r.Spec.Name)
	}
	if got := cardsOf(r.Spec.Machines["host-1"]); got != "lan-0 none, lan-0-2 none" {
		t.Error(got)
	}
	if !strings.Contains(string(r.File), "\trename eth1 eth2\n") {
		t.Errorf("%s", r.File)
	}
	said(t, r, "2 host-1", "6 DHCP", "7 128M", "8 unknown")
}

func TestContainerlab(t *testing.T) {
	r := load(t, "", "routers.clab.yml", Options{Home: "/home/a"})
	s := r.Spec
	if r.Kind != Containerlab || s.Name != "routers" || s.Images["alpine"].From.Reference != "alpine:3" || s.Images["tools"].From.Reference == "" {
		t.Errorf("%+v", s)
	}
	for name, want := range map[string]string{
		"r1": "oob, r1-3 none, r1-r2 none, r1 none, r1-2 none, r1-pc none 02:00:00:00:00:01",
		"r2": "oob, r1-r2 none, sw none, r2 none",
		"pc": "r1-pc none, sw none",
	} {
		if got := cardsOf(s.Machines[name]); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if m := s.Machines["r2"]; m.Cards[0].Addr.String() != "192.168.10.30" || m.Memory != lab.GiB || m.Root != lab.RootDisk || len(m.Forwards) != 2 {
		t.Errorf("%+v", m)
	}
	if s.Networks["sw"].MTU != 9000 || s.Networks["oob"].Subnet.String() != "192.168.10.0/24" || !slices.Equal(s.Machines["pc"].After, []string{"r1"}) {
		t.Errorf("%+v", s.Networks["sw"])
	}
	for _, line := range []string{
		"{from: /etc/hostname, to: /hostlab/r1/etc/name}", "{from: /home/a/x, to: /hostlab/r2/root/x}",
		"rename eth0 eth2 eth1 lan\n", `bash -c 'echo "$LAB" | tee /tmp/lab'`, "ip addr add 10.9.0.1/24 dev eth10\n",
		`export A='it'\''s'`, "sleep infinity &\n", "sysctl -w net.ipv4.ip_forward=1\n",
	} {
		if !strings.Contains(string(r.File), line) {
			t.Errorf("no %q in\n%s", line, r.File)
		}
	}
	said(t, r, "2 prefix", "6 mgmt.bridge", "10 alpine:3", "10 there is no shared/hosts", "10 there is no", "10 there is no",
		"15 /etc/name is a copy", "15 ~/x", "19 8080", "19 53/udp", "25 9 is no variable", "27 sw is a network", "28 nokia_srlinux",
		"39 labels", "40 type host", "42 host-interface", "43 host:x")
}

// TestBootScript has the real shell read what the images get.
func TestBootScript(t *testing.T) {
	for dir, name := range map[string]string{"": "routers.clab.yml", "rip": "lab.conf", "netkit": "lab.conf"} {
		for _, image := range load(t, dir, name, Options{}).Spec.Images {
			for _, f := range image.Files {
				if !strings.HasPrefix(f.Content, "#!/bin/sh") {
					continue
				}
				sh := exec.Command("sh", "-n")
				sh.Stdin = strings.NewReader(f.Content)
				if out, err := sh.CombinedOutput(); err != nil {
					t.Errorf("%v: %s\n%s", err, out, f.Content)
				}
			}
		}
	}
	hard := []string{"A=b", "", "it's", `"$HOME" \`, "two words", "*", "-n", "é", ";"}
	out, err := exec.Command("sh", "-c", "printf '<%s>' "+shell(hard...)).Output()
	if want := "<" + strings.Join(hard, "><") + ">"; err != nil || string(out) != want {
		t.Errorf("%v, %s, want %s", err, out, want)
	}
}

func TestShellWords(t *testing.T) {
	for line, want := range map[string]string{
		`ip  addr add 10.0.0.1/24 dev eth1`: "ip|addr|add|10.0.0.1/24|dev|eth1",
		`bash -c 'a && b' "c \"d\" \n"`:     `bash|-c|a && b|c "d" \n`,
		`a\ b '' x'y'z`:                     "a b||xyz",
		"":                                  "",
	} {
		if got, ok := shellWords(line); !ok || strings.Join(got, "|") != want {
			t.Errorf("%s: %q", line, got)
		}
	}
	for _, line := range []string{`a 'b`, `a "b`, `a \`} {
		if got, ok := shellWords(line); ok {
			t.Errorf("%s: %q", line, got)
		}
	}
}

// TestNeeds looks for packages, modules and backends in startup files.
func TestNeeds(t *testing.T) {
	r, err := Import(folder(map[string]string{
		"lab.conf":    "pc[0]=A\nfw[0]=A\nfw[1]=B\nold[0]=B\nmac[0]=B\n",
		"pc.startup":  "# iptables\nip link add link eth0 name eth0.10 type vlan id 10\nif true; then tcpdump -i eth0 & fi\ntc qdisc add dev eth0 root netem delay 10ms\n",
		"fw.startup":  "iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE && service dnsmasq start\n",
		"old.startup": "/etc/init.d/zebra start\n",
		"mac.startup": "ip link set dev eth0 down\nip link set eth0 up\n",
	}), "lab.conf", Options{})
	if err != nil {
		t.Fatal(err)
	}
	pc, fw := r.Spec.Machines["pc"], r.Spec.Machines["fw"]
	if !slices.Equal(pc.Modules, []string{"8021q", "sch_netem"}) || pc.Backend != lab.BackendAuto || !pc.Forwarding {
		t.Errorf("%+v", pc)
	}
	if !slices.Contains(fw.Modules, "nft_chain_nat") || fw.Backend != lab.BackendQEMU || r.Spec.Machines["mac"].Backend != lab.BackendQEMU {
		t.Errorf("%+v", fw)
	}
	if got := r.Spec.Images["base"].Packages; !slices.Equal(got[len(plainPackages):], []string{"dnsmasq", "iptables", "tcpdump"}) {
		t.Error(got)
	}
	said(t, r, "4 quagga")
}

// TestMistakes are labs that can't be imported.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"lab.conf", "", "lab.conf:1:1: the lab has no machine"},
		{"lab.conf", "a[0]=A\nb\n", "lab.conf:2:1: "},
		{"lab.conf", "a[0]=\"A\n", "lab.conf:1:1: "},
		{"lab.conf", "a[0]=A\na[1]=A\n", "lab.conf:2:1: machine \"a\" is on \"A\" twice"},
		{"lab.conf", "shared[0]=A\n", "lab.conf:1:1: no machine can be called shared"},
		{"lab.conf", "a[0]=A,B\n", "no collision domain"},
		{"lab.conf", strings.Repeat("a[0]=A\n", 1<<18), "more than"},
		{"x.clab.yml", "a: [", "x.clab.yml:1:1: this is no YAML"},
		{"x.clab.yml", "- a\n", "no mapping"},
		{"x.clab.yml", "name: a\n", "there is no topology"},
		{"x.clab.yml", "topology:\n  nodes:\n    a: {kind: srl}\n", "the lab has no machine"},
		{"x.clab.yml", "topology:\n  nodes:\n    a: {kind: linux}\n  links:\n    - endpoints: [a:eth1]\n", "x.clab.yml:5:"},
		{"x.clab.yml", "topology:\n  nodes:\n    a: {kind: linux}\n  links:\n    - endpoints: [a:eth1, c:eth1]\n", "there is no node \"c\""},
		{"x.clab.yml", "topology:\n  nodes:\n    a: {kind: linux}\n  links:\n    - endpoints: [a:eth1, a:eth2]\n", "twice"},
		{"x.clab.yml", "topology:\n  nodes:\n    a: {kind: linux, wait-for: [a]}\n", "waits for itself"},
		{"x.clab.yml", "a: *b\n", "stands for nothing"},
		{"x.clab.yml", strings.Repeat("[", 100), "nested"},
		{"x.clab.yml", strings.Repeat("- ", 100), "nested"},
	} {
		_, err := Import(folder(map[string]string{c.name: c.text}), c.name, Options{})
		if !errors.As(err, new(lab.Errors)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %s", c.text, err, c.want)
		}
	}
}

// TestBraces has ends of links, ports and commands as they stand inside of braces.
func TestBraces(t *testing.T) {
	r, err := Import(folder(map[string]string{"x.clab.yml": `{name: x, topology: {
  nodes: {a: {kind: linux, ports: [80:80, "81:81"]}, b: {kind: linux, exec: [echo a:b, "c: d"]}},
  links: [{endpoints: [a:eth1, b:eth1]}, {endpoints: ["a:eth2", 'b:eth2']}]}}`}), "x.clab.yml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.Spec.Machines["a"]; len(a.Cards) != 3 || len(a.Forwards) != 2 || !strings.Contains(string(r.File), "echo a:b\n") || !strings.Contains(string(r.File), "c: d\n") {
		t.Errorf("%+v\n%s", a, r.File)
	}
}

// TestAliases expands what grows with each line, in bounded time and memory.
func TestAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 {k: v}\n")
	for i := range 60 {
		fmt.Fprintf(&b, "a%d: &a%[1]d [*a%d, *a%[2]d, *a%[2]d]\n", i+1, i)
	}
	b.WriteString("topology:\n  nodes: {m: {kind: linux}}\n")
	r, err := Import(folder(map[string]string{"x.clab.yml": b.String()}), "x.clab.yml", Options{})
	if err != nil || len(r.Spec.Machines) != 1 {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		files []string
		want  string
	}{
		{[]string{"lab.conf", "a.clab.yml"}, "lab.conf"},
		{[]string{"a.clab.yaml", "b.yml"}, "a.clab.yaml"},
		{[]string{"a.clab.yml", "b.clab.yml"}, ""},
		{nil, ""},
	} {
		files := map[string]string{"other": ""}
		for _, f := range c.files {
			files[f] = ""
		}
		got, err := Find(folder(files), "dir")
		if got != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%q: %s, %v", c.files, got, err)
		}
	}
}
