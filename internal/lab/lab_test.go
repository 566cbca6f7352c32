package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"wolffia/internal/rootfs"
)

func TestStarterParses(t *testing.T) {
	s, err := Parse("wolffia.yaml", Starter())
	if err != nil {
		t.Fatal(err)
	}
	i := s.Images["base"]
	if i == nil || !reflect.DeepEqual(i.Packages, []string{"busybox-static", "dropbear-bin"}) || i.Deps != rootfs.DepsELF {
		t.Errorf("image is %+v", i)
	}
	if i.Files[0].Path != "/etc/motd" || i.Files[0].Content != "Hello from wolffia.\n" {
		t.Errorf("file is %+v", i.Files[0])
	}
	m := s.Machines["alice"]
	if m == nil || m.Memory != 128*MiB || m.Image != "base" || s.Uplink(m).Network != "lan" {
		t.Errorf("machine is %+v", m)
	}
}

func TestDefaultsAreFilledIn(t *testing.T) {
	s, err := Parse("wolffia.yaml", []byte("images: {one: {packages: [a]}, two: }\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := s.Machines["two"]
	if m == nil || m.Image != "two" || m.Memory != DefaultMemory || !reflect.DeepEqual(m.NetworkNames(), []string{"lan"}) {
		t.Errorf("machine is %+v", m)
	}
	if got := s.Networks["lan"].Subnet; got != netip.MustParsePrefix("10.0.2.0/24") {
		t.Errorf("subnet is %v", got)
	}
	if empty, err := Parse("wolffia.yaml", nil); err != nil || empty.Images["base"] == nil {
		t.Errorf("an empty file gives %+v, %v", empty, err)
	}
}

func TestMistakes(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":        {"images:\n  base:\n    pakcages: [a]\n", `f:3:5: unknown key "pakcages" in image "base"; did you mean "packages"?`},
		"unknown top key":    {"machnies: {}\n", `f:1:1: unknown key "machnies" in the file; did you mean "machines"?`},
		"far off key":        {"zzzzzzzz: {}\n", `f:1:1: unknown key "zzzzzzzz" in the file; it may have name, mirror, keyring, images, networks, machines`},
		"bad memory":         {"machines:\n  alice: {memory: 12 bananas}\n", `f:2:19: "12 bananas" is no size; write one such as 64M or 2G`},
		"little memory":      {"machines:\n  alice: {memory: 1K}\n", `f:2:19: memory 1K is too small for any Linux; give at least 1M`},
		"much memory":        {"machines:\n  alice: {memory: 9000T}\n", `f:2:19: memory 9000T is impossible; give at most 1T`},
		"share over root":    {"machines:\n  alice: {shares: [{from: a, to: //}]}\n", `f:2:34: "//" is the machine's root, which nothing goes over; give a place such as /mnt`},
		"share without to":   {"machines:\n  alice: {shares: [{from: a}]}\n", `f:2:20: a share needs a folder of the host (from) and a place in the machine (to)`},
		"disk of nothing":    {"machines:\n  alice: {disks: [{name: a}]}\n", `f:2:19: a disk is a new one (size) or an image of yours (from)`},
		"disk of both":       {"machines:\n  alice: {disks: [{size: 1M, from: a}]}\n", `f:2:19: a disk is a new one (size) or an image of yours (from)`},
		"disk of no size":    {"machines:\n  alice: {disks: [{size: 1K}]}\n", `f:2:26: size 1K is not within 1M and 16T`},
		"disk of a kind":     {"machines:\n  alice: {disks: [{size: 1G, format: ext5}]}\n", `f:2:38: unknown format "ext5"; did you mean "ext2"?`},
		"disk written to":    {"machines:\n  alice: {disks: [{from: a, in-place: true, read-only: true}]}\n", `f:2:19: a disk that is read-only is not written to in place`},
		"new and read-only":  {"machines:\n  alice: {disks: [{size: 1G, read-only: true}]}\n", `f:2:19: in-place and read-only are about an image (from); this disk is a new one`},
		"image with format":  {"machines:\n  alice: {disks: [{from: a, format: ext4}]}\n", `f:2:19: format ext4 is for a new disk (size); an image (from) is raw or qcow2, and what it holds is told by its content`},
		"new of a form":      {"machines:\n  alice: {disks: [{size: 1G, format: raw}]}\n", `f:2:19: format raw is for an image (from); a new disk has a file system, such as ext4, or is empty without format`},
		"empty and mounted":  {"machines:\n  alice: {disks: [{size: 1G, mount: /a}]}\n", `f:2:19: there is nothing to mount on an empty disk; give it a format, such as ext4`},
		"disks of a name":    {"machines:\n  alice: {disks: [{name: disk2, size: 1G}, {size: 1G}]}\n", `f:2:44: two disks are called disk2`},
		"disk's long name":   {"machines:\n  alice: {disks: [{name: aaaaaaaaaaaaaaaaaaaaa, size: 1G}]}\n", `f:2:26: name "aaaaaaaaaaaaaaaaaaaaa" of a disk has more than 20 characters`},
		"disks and shares":   {"machines:\n  alice: {shares: [{from: a, to: /m}], disks: [{from: a}, {from: b, mount: /m}]}\n", `f:2:59: something else is at /m already`},
		"one place":          {"machines:\n  alice: {shares: [{from: a, to: /m}], disks: [{from: b, mount: /./m//}]}\n", `f:2:48: something else is at /m already`},
		"the root itself":    {"machines:\n  alice: {disks: [{from: b, mount: /.}]}\n", `f:2:36: "/." is the machine's root, which nothing goes over; give a place such as /mnt`},
		"VLAN written oddly": {"networks: {lan: {vlans: {10: , 010: }}}\n", `f:1:32: "010" is no VLAN; it is 1 to 4094`},
		"one prefix":         {"networks: {n9: {subnet: 10.1.0.0/24}, n128: {subnet: 10.2.0.0/24}}\n", `f:1:16: networks "n128" and "n9" would have the same IPv6 addresses`},
		"eight disks":        {"machines:\n  alice: {disks: [{from: a}, {from: a}, {from: a}, {from: a}, {from: a}, {from: a}, {from: a}, {from: a}]}\n", `f:2:18: a machine has at most 7 disks besides that of its root, and these are 8`},
		"shares at a place":  {"machines:\n  alice: {shares: [{from: a, to: /m}, {from: b, to: /m}]}\n", `f:2:39: two shares are at /m`},
		"unknown image":      {"images: {base: }\nmachines:\n  alice: {image: bsae}\n", `f:3:18: unknown image "bsae"; did you mean "base"?`},
		"unknown network":    {"networks: {lan: }\nmachines:\n  alice: {networks: [lan, lna]}\n", `f:3:27: unknown network "lna"; did you mean "lan"?`},
		"network twice":      {"networks: {lan: }\nmachines:\n  alice: {networks: [lan, lan]}\n", `f:3:27: machine "alice" is on network "lan" twice`},
		"same addresses":     {"networks: {lan: , far: {subnet: 10.0.0.0/16}}\nmachines:\n  alice: {networks: [lan, far]}\n", `f:3:22: machine "alice" is on networks "lan" and "far", which have the same addresses (10.0.2.0/24 and 10.0.0.0/16); give one another subnet`},
		"no image":           {"images: {a: , b: }\nmachines:\n  alice: {memory: 64M}\n", `f:3:10: machine "alice" names no image; it may be a, b`},
		"nobody to log in":   {"images: {base: }\nmachines:\n  alice: {console: login}\n", `f:3:20: machine "alice" asks for a login, and no user of image "base" has a password; give it one: users: [{name: root, password: ...}]`},
		"console of a disk":  {"machines:\n  alice: {boot: bios, console: shell}\n", `f:2:32: machine "alice": boot bios has a system of its own, which has its own console; leave console out, or boot`},
		"bad console":        {"machines:\n  alice: {console: logon}\n", `f:2:20: unknown console "logon"; did you mean "login"?`},
		"bad backend":        {"machines:\n  alice: {backend: umll}\n", `f:2:20: unknown backend "umll"; did you mean "uml"?`},
		"bad arch":           {"images: {base: {arch: amd46}}\n", `f:1:23: unknown arch "amd46"; did you mean "amd64"?`},
		"bad subnet":         {"networks: {lan: {subnet: 10.0.2.1/24}}\n", `f:1:26: network 10.0.2.1/24 has host bits set; did you mean 10.0.2.0/24?`},
		"bad forward":        {"machines:\n  alice: {networks: [lan], forwards: [nonsense]}\nnetworks: {lan: }\n", `f:2:39: forward "nonsense": the machine's port is missing; write it as 127.0.0.1:5522:22 or 8080:80 or 5353:53/udp`},
		"forward nowhere":    {"machines:\n  alice: {forwards: [\"1:2\"]}\n", `f:2:22: machine "alice" has forwards, and no network with a gateway to forward over`},
		"duplicate":          {"images: {base: , base: }\n", `f:1:18: this is no YAML: mapping key "base" already defined at [1:10]`},
		"list for mapping":   {"images: [base]\n", `f:1:9: images must be a mapping (key: value), and is a list`},
		"scalar for list":    {"images: {base: {packages: strace}}\n", `f:1:27: packages must be a list ([a, b]), and is "strace"`},
		"bad name":           {"machines: {Alice: }\n", `f:1:12: machine "Alice": a name is 1 to 63 lower-case letters, digits and dashes, and neither starts nor ends with a dash`},
		"no key of ssh":      {"images: {b: {users: [{name: joe, keys: [ssh-ed25519 AAAA... you@host]}]}}\n", `f:1:41: "ssh-ed25519 AAAA... you@host" is no public key of ssh: use the line in ~/.ssh/id_ed25519.pub; ssh-keygen -t ed25519 makes one`},
		"plain password":     {"images: {b: {users: [{name: joe, password: secret}]}}\n", `f:1:44: this password is no crypt(3) hash; make one with: mkpasswd -m sha-512 (an image holds no plain passwords)`},
		"file without kind":  {"images: {b: {files: [{path: /a}]}}\n", `f:1:22: file /a needs exactly one of from, content, link and directory`},
		"disk too small":     {"images: {b: {size: 4K}}\n", `f:1:20: size 4K is not within 1M and 16T`},
		"disk of odd size":   {"images: {b: {size: 5000001}}\n", `f:1:20: size 5000001 is not of whole blocks of 4K; write one such as 64M`},
		"alias":              {"name: &a x\nmirror: *a\n", `f:1:7: name must be text, and is an anchor or alias, which wolffia does not read`},
		"two documents":      {"name: a\n---\nname: b\n", `f:3:5: the file holds more than one document`},
	} {
		_, err := Parse("f", []byte(c.text))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if first, _, _ := strings.Cut(err.Error(), "\n"); !strings.Contains(first, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", name, first, c.want)
		}
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	_, err := Parse("f", []byte("nmae: x\nimages: {b: {arch: x86}}\nmachines: {a: {memory: 1K}}\n"))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 3 {
		t.Fatalf("got %v", err)
	}
	for i, line := range []int{1, 2, 3} {
		if errs[i].Line != line {
			t.Errorf("mistake %d is said to be in line %d", i, errs[i].Line)
		}
	}
}

func TestSchemaIsJSONAndKnowsEveryKey(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	props := s["properties"].(map[string]any)
	for _, k := range specKeys() {
		if props[k.name] == nil {
			t.Errorf("the schema lacks %q", k.name)
		}
	}
	if s["additionalProperties"] != false {
		t.Error("the schema lets unknown keys pass")
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "512": 512, "64M": 64 * MiB, "1.5G": 1536 * MiB, "2GiB": 2 * GiB, "4kb": 4 * KiB} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "-1M", "1X", "1e400", "0x10", "NaN", "Inf", "1 M", "99999999999T"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %v", text, got)
		}
	}
	if got := (1536 * MiB).String(); got != "1536M" {
		t.Errorf("1.5G is written %q", got)
	}
}

func TestForwards(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:5522:22": "127.0.0.1:5522:22", "8080:80": "127.0.0.1:8080:80",
		"0.0.0.0:53:53/udp": "0.0.0.0:53:53/udp", "[::1]:0:22": "[::1]:0:22",
	} {
		if got, err := ParseForward(text); err != nil || got.String() != want {
			t.Errorf("ParseForward(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ":", "1", "1:0", "x:1:2", "1:2/sctp", "70000:1", "1:2:3:4"} {
		if got, err := ParseForward(text); err == nil {
			t.Errorf("ParseForward(%q) = %v", text, got)
		}
	}
}

func TestMACsAreStableAndLocal(t *testing.T) {
	a, b := MAC("lab", "alice", "lan"), MAC("lab", "alice", "lan")
	if a.String() != b.String() {
		t.Errorf("%v and %v differ", a, b)
	}
	// A process that came to others by itself would have them change with each up.
	for want, got := range map[string]string{"6e:f1:b7:39:12:dc": a.String(), "de:7c:3d:28:e1:9b": ControlMAC("lab", "alice").String()} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if a[0]&3 != 2 {
		t.Errorf("%v is not unicast and locally administered", a)
	}
	for _, other := range []string{MAC("laba", "lice", "lan").String(), MAC("lab", "bob", "lan").String(), ControlMAC("lab", "alice").String()} {
		if other == a.String() {
			t.Errorf("%s appears twice", other)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Starter())
	f.Add([]byte("images: {base: {files: [{path: /a, content: |\n  text\n}]}}"))
	f.Add([]byte("a: &a [*a, *a]\nb: {<<: *a}"))
	f.Add([]byte("[[[[[[[[[[[[[[[[[[[[[[[[[[[["))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f", data)
		if err == nil {
			for _, m := range s.Machines {
				if s.Images[m.Image] == nil || m.Memory < MinMemory {
					t.Errorf("machine %+v passed", m)
				}
			}
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "f:") {
				t.Errorf("error %q does not say where", line)
			}
		}
	})
}

func TestErrorAt(t *testing.T) {
	text := []byte("machines:\n  alice:\n    shares: [{from: a, to: /a}, {from: b, to: /b}]\n")
	if _, err := Parse("f", text); err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string][]string{
		"f:3:40: it is gone": {"machines", "alice", "shares", "1", "from"},
		"f:3:33: it is gone": {"machines", "alice", "shares", "1"},
		"f:3:13: it is gone": {"machines", "alice", "shares", "2", "from"}, // as far as that goes
	} {
		if got := ErrorAt("f", text, errors.New("it is gone"), path...).Error(); got != want {
			t.Errorf("%v: %q, want %q", path, got, want)
		}
	}
}

func TestParseShare(t *testing.T) {
	for text, want := range map[string]Share{
		"src:/mnt":       {From: "src", To: "/mnt"},
		"/a:b/c:/mnt:ro": {From: "/a:b/c", To: "/mnt", ReadOnly: true},
	} {
		if got, err := ParseShare(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "src", ":/mnt", "src:", "src:mnt", "src:/mnt:rw", "src:/a/../b", "src:/a b"} {
		if got, err := ParseShare(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// TestPublicKeys: whatever sshd takes as a line of authorized_keys with a key.
func TestPublicKeys(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC0tJKN3zLb68C9K3pW941i8ckZH9kejMV3dMOxlnFDB"
	for line, want := range map[string]bool{
		key:                                true,
		key + " me@host, at work":          true,
		`command="echo a b",no-pty ` + key: true,
		strings.Replace(key, "ed25519", "rsa", 1): false, // the key says otherwise
		key[:40]:             false,
		"":                   false,
		"ssh-ed25519":        false,
		"ssh-ed25519 " + key: true, // as if it were an option
	} {
		s, err := Parse("f", []byte(fmt.Sprintf("images: {b: {users: [{name: joe, keys: [%q]}]}}\n", line)))
		if got := err == nil && len(s.Images["b"].Users[0].Keys) == 1; got != want {
			t.Errorf("%q: %v", line, err)
		}
	}
}
