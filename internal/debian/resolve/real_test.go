package resolve

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/debian/control"
)

// realSets are asked of apt and of us. Where the two may differ, apt and ours
// would name the packages that only one has; so far they never do.
var realSets = []struct{ want, apt, ours string }{
	{want: "bash"},
	{want: "busybox-static dropbear-bin strace gdbserver tcpdump"},
	{want: "user-mode-linux"},
	{want: "python3-numpy"},
	{want: "systemd-sysv"},
	{want: "sysvinit-core"},
	{want: "nginx"},
	{want: "openssh-server"},
	{want: "gcc"},
	{want: "build-essential"},
	{want: "qemu-system-x86"},
	{want: "qemu-user-static"},
	{want: "git perl"},
	{want: "default-mta"},
	{want: "postfix mutt"},
	{want: "cron"},
	{want: "emacs-nox vim"},
	{want: "iproute2 iputils-ping nftables iptables"},
	{want: "docker.io"},
	{want: "podman"},
	{want: "postgresql"},
	{want: "mariadb-server"},
	{want: "default-jre-headless"},
	{want: "rustc cargo"},
	{want: "nodejs npm"},
	{want: "xfce4"},
	{want: "gnome-core"},
	{want: "libreoffice"},
	{want: "tasksel task-ssh-server"},
	{want: "texlive"},
	{want: "dpkg apt"},
	{want: "initramfs-tools live-boot"},
	{want: "debhelper"},
	{want: "r-base octave"},
	{want: "wireshark gdb valgrind"},
	{want: "samba bind9 dnsmasq"},
	{want: "ifupdown isc-dhcp-client network-manager"},
	{want: "libvirt-daemon-system"},
}

func names(ids []string) string {
	var out []string
	for _, id := range ids {
		name, _, _ := strings.Cut(id, ":")
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func minus(a, b []string) (out []string) {
	for _, x := range a {
		if _, ok := slices.BinarySearch(b, x); !ok {
			out = append(out, x)
		}
	}
	return out
}

func resolveNames(idx *Index, arch, want string) (*Solution, error) {
	req := Request{Native: arch}
	for word := range strings.FieldsSeq(want) {
		w, err := ParseWant(word)
		if err != nil {
			return nil, err
		}
		req.Want = append(req.Want, w)
	}
	return Resolve(idx, req)
}

func ids(sol *Solution) (out []string) {
	for _, p := range sol.Packages {
		out = append(out, p.ID())
	}
	slices.Sort(out)
	return out
}

func TestSameAsApt(t *testing.T) {
	a, idx := archive(t)
	for i, set := range realSets {
		if testing.Short() && i%5 != 0 {
			continue
		}
		t.Run(strings.ReplaceAll(set.want, " ", ","), func(t *testing.T) {
			t.Parallel()
			want, err := a.install(strings.Fields(set.want)...)
			if err != nil {
				t.Fatal(err)
			}
			sol, err := resolveNames(idx, a.arch, set.want)
			if err != nil {
				t.Fatal(err)
			}
			checkSound(t, sol)
			got := ids(sol)
			if len(want) == 0 {
				t.Fatal("apt would install nothing")
			}
			onlyApt, onlyOurs := names(minus(want, got)), names(minus(got, want))
			if onlyApt != set.apt || onlyOurs != set.ours {
				t.Errorf("of %d packages, only apt: %s; only ours: %s", len(got), onlyApt, onlyOurs)
			}
		})
	}
}

// TestVirtualPackage asks for a virtual package, which apt refuses if
// several provide it.
func TestVirtualPackage(t *testing.T) {
	a, idx := archive(t)
	sol, err := resolveNames(idx, a.arch, "mail-transport-agent")
	if err != nil {
		t.Fatal(err)
	}
	checkSound(t, sol)
	again, err := resolveNames(NewIndex(a.lists...), a.arch, "mail-transport-agent")
	if err != nil || !slices.Equal(ids(sol), ids(again)) {
		t.Errorf("the same request gave another answer: %v, %v", again, err)
	}
}

// TestEveryPackage resolves a good part of the archive one by one: each answer
// is sound or an error that explains itself.
func TestEveryPackage(t *testing.T) {
	a, idx := archive(t)
	step := 97
	if testing.Short() {
		step = 997
	}
	solved := 0
	for i := 0; i < len(a.lists[0]); i += step {
		p := a.lists[0][i]
		sol, err := Resolve(idx, Request{Native: a.arch, Want: []Want{{Name: p.Name}}, Recommends: i%2 == 0})
		if err != nil {
			t.Logf("%s: %v", p.Name, err)
			continue
		}
		solved++
		checkSound(t, sol)
	}
	if asked := (len(a.lists[0]) + step - 1) / step; solved < asked*9/10 {
		t.Errorf("%d of %d packages could be resolved", solved, asked)
	}
}

func BenchmarkNewIndex(b *testing.B) {
	a, _ := archive(b)
	b.ReportAllocs()
	for b.Loop() {
		NewIndex(a.lists...)
	}
}

func BenchmarkParsePackagesReal(b *testing.B) {
	a, _ := archive(b)
	b.SetBytes(int64(len(a.raw[0])))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := control.ParsePackages(bytes.NewReader(a.raw[0]), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	a, idx := archive(b)
	for _, want := range []string{"busybox-static dropbear-bin strace gdbserver tcpdump", "build-essential", "gnome-core"} {
		b.Run(strings.Fields(want)[0], func(b *testing.B) {
			for b.Loop() {
				if _, err := resolveNames(idx, a.arch, want); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
