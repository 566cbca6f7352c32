package resolve

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/debian/control"
)

// realSets are asked of apt and of us. Where the two differ, the lists say in
// which packages, and why that is right.
var realSets = []struct {
	want      string
	apt, ours []string // names that only one has
	why       string
}{
	{want: "bash"}, {want: "busybox-static"}, {want: "dropbear-bin"}, {want: "strace gdbserver tcpdump"}, {want: "busybox-static dropbear-bin strace gdbserver tcpdump"},
	{want: "python3"}, {want: "python3-numpy"}, {want: "systemd"}, {want: "systemd-sysv"}, {want: "sysvinit-core"}, {want: "nginx"}, {want: "apache2"}, {want: "openssh-server"}, {want: "openssh-client"},
	{want: "gcc"}, {want: "build-essential"}, {want: "g++ make cmake"}, {want: "qemu-system-x86"}, {want: "qemu-system-arm"}, {want: "qemu-user-static"},
	{want: "user-mode-linux"}, {want: "linux-image-" + "amd64"}, {want: "git"}, {want: "perl"}, {want: "default-mta"}, {want: "exim4"}, {want: "postfix"}, {want: "mutt"}, {want: "cron"},
	{want: "vim"}, {want: "emacs-nox"}, {want: "curl wget"}, {want: "iproute2 iputils-ping nftables"}, {want: "iptables"}, {want: "docker.io"}, {want: "podman"},
	{want: "postgresql"}, {want: "mariadb-server"}, {want: "default-jre-headless"}, {want: "rustc cargo"}, {want: "golang-go"}, {want: "nodejs npm"}, {want: "xfce4"}, {want: "gnome-core"}, {want: "kde-plasma-desktop"}, {want: "libreoffice"},
	{want: "firefox-esr"}, {want: "tasksel task-ssh-server"}, {want: "task-gnome-desktop"}, {want: "texlive"}, {want: "dpkg apt"}, {want: "initramfs-tools"}, {want: "live-boot"}, {want: "debhelper"}, {want: "r-base"}, {want: "octave"},
	{want: "wireshark"}, {want: "gdb valgrind"}, {want: "samba"}, {want: "bind9 dnsmasq"}, {want: "ifupdown isc-dhcp-client"}, {want: "network-manager"}, {want: "libvirt-daemon-system"},
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
	for _, set := range realSets {
		want, err := a.install(strings.Fields(set.want)...)
		if err != nil {
			t.Errorf("%s: %v", set.want, err)
			continue
		}
		sol, err := resolveNames(idx, a.arch, set.want)
		if err != nil {
			t.Errorf("%s: %v", set.want, err)
			continue
		}
		got := ids(sol)
		onlyApt, onlyOurs := names(minus(want, got)), names(minus(got, want))
		if onlyApt != strings.Join(set.apt, " ") || onlyOurs != strings.Join(set.ours, " ") {
			t.Errorf("%s: %d packages, only apt: %s; only ours: %s", set.want, len(got), onlyApt, onlyOurs)
		}
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
