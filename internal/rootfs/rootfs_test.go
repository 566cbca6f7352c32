package rootfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// released stands for the Release's date.
var released = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// small is a base of one made-up busybox.
func small(t *testing.T) *tree.Tree {
	return plant(t, map[string]any{
		"/usr/bin/busybox":  "\x7fELF\x00[\x00[[\x00ash\x00awk\x00cat\x00crond\x00ip\x00mount\x00sh\x00syslogd\x00zcat\x00\x00/bin/sh",
		"/usr/bin/awk":      "#!/bin/sh\n",
		"/usr/bin/lost":     "#!/usr/bin/perl -w\n",
		"/usr/sbin/service": "#!/bin/sh\n",
		"/etc/issue":        "the package's own\n",
		"/usr/share/ca-certificates/mozilla/A.crt": "A\n",
		"/usr/share/ca-certificates/mozilla/B.crt": "B",
	})
}

func text(t *testing.T, tr *tree.Tree, name string) string {
	t.Helper()
	b, err := tr.ReadFile(name, 1<<20)
	must(t, err)
	return string(b)
}

func TestBuild(t *testing.T) {
	base := small(t)
	before, err := tree.Digest(base)
	must(t, err)
	got, rep, err := Build(Recipe{Release: "trixie", Hostname: "pond", Time: released, Services: []string{"crond", "mine"}, Files: []File{
		{Path: "/etc/init.d/mine", Content: "#!/bin/sh\n", Mode: 0o755},
	}}, base)
	must(t, err)
	if after, _ := tree.Digest(base); after != before {
		t.Error("the base was changed")
	}
	want := []string{"/usr/bin/[", "/usr/bin/ash", "/usr/bin/cat", "/usr/sbin/crond", "/usr/sbin/ip", "/usr/bin/mount", "/usr/bin/sh", "/usr/sbin/syslogd", "/usr/bin/zcat"}
	if !slices.Equal(rep.Applets, want) {
		t.Errorf("applets %v, want %v", rep.Applets, want)
	}
	for name, target := range map[string]string{
		"/usr/bin/sh": "busybox", "/usr/sbin/ip": "../bin/busybox", "/bin": "usr/bin", "/var/run": "/run",
		"/usr/sbin/poweroff": "../lib/wolffia/poweroff", "/etc/mtab": "/proc/mounts",
	} {
		if n := got.Get(name); n == nil || n.Target != target {
			t.Errorf("%s is %+v, want a link to %s", name, n, target)
		}
	}
	for name, want := range map[string]string{
		"/etc/hostname": "pond\n", "/etc/issue": "the package's own\n", "/etc/wolffia/start": "crond\nmine\n",
		"/etc/wolffia/services/crond": "#!/bin/sh\nexec /usr/sbin/crond\n", "/etc/ssl/certs/ca-certificates.crt": "A\nB\n",
	} {
		if have := text(t, got, name); have != want {
			t.Errorf("%s holds %q, want %q", name, have, want)
		}
	}
	if !strings.Contains(text(t, got, "/etc/os-release"), `PRETTY_NAME="Debian GNU/Linux 13 (trixie)"`) {
		t.Error(text(t, got, "/etc/os-release"))
	}
	if !slices.Equal(rep.Missing, []string{"/usr/bin/lost needs /usr/bin/perl"}) {
		t.Errorf("missing %v", rep.Missing)
	}
	for name, perm := range map[string]uint32{"/tmp": 0o1777, "/root": 0o700, "/root/.ssh": 0o700, "/init": 0o755, "/etc/shadow": 0o640, "/proc": 0o555} {
		if n := got.Get(name); n == nil || n.Mode&0o7777 != perm {
			t.Errorf("%s is %+v, want mode %o", name, n, perm)
		}
	}
	if n := got.Get("/dev/ttyS0"); n == nil || n.Type() != tree.TypeChar || n.Major != 4 || n.Minor != 64 || n.GID != 20 {
		t.Errorf("/dev/ttyS0 is %+v", n)
	}
	must(t, got.Walk(func(name string, n *tree.Node) error {
		if n.ModTime.IsZero() || n.ModTime.After(released) {
			t.Errorf("%s has the time %v", name, n.ModTime)
		}
		return nil
	}))
}

func TestAccounts(t *testing.T) {
	got, rep, err := Build(Recipe{Time: released,
		Groups: []Group{{Name: "boats", GID: 300, Members: []string{"ann"}}, {Name: "sudo", Members: []string{"bea"}}},
		Users: []User{
			{Name: "ann", Comment: "Ann A.", Groups: []string{"dialout", "video"}, Keys: []string{"ssh-ed25519 AAAA ann"}},
			{Name: "bea", UID: 5000, Group: "users", Shell: "/bin/ash", Home: "/srv/bea", Hash: "$6$x$y"},
			{Name: "root", Shell: "/bin/ash", Password: "secret"},
		}}, small(t))
	must(t, err)
	if !slices.Equal(rep.Users, []string{"ann", "bea", "root"}) {
		t.Errorf("users %v", rep.Users)
	}
	for name, lines := range map[string][]string{
		"/etc/passwd": {
			"root:x:0:0:root:/root:/bin/ash", "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
			"ann:x:1000:1000:Ann A.:/home/ann:/bin/sh", "bea:x:5000:100::/srv/bea:/bin/ash",
		},
		"/etc/group":  {"dialout:x:20:ann", "sudo:x:27:bea", "video:x:44:ann", "boats:x:300:ann", "ann:x:1000:"},
		"/etc/shadow": {"daemon:*:1:0:99999:7:::", "ann:*:1:0:99999:7:::", "bea:$6$x$y:1:0:99999:7:::"},
	} {
		have := strings.Split(text(t, got, name), "\n")
		for _, l := range lines {
			if !slices.Contains(have, l) {
				t.Errorf("%s lacks %q in\n%s", name, l, strings.Join(have, "\n"))
			}
		}
	}
	for name, want := range map[string][3]uint32{
		"/home/ann": {0o750, 1000, 1000}, "/home/ann/.ssh/authorized_keys": {0o600, 1000, 1000}, "/srv/bea": {0o750, 5000, 100},
	} {
		if n := got.Get(name); n == nil || [3]uint32{n.Mode & 0o7777, n.UID, n.GID} != want {
			t.Errorf("%s is %+v, want %v", name, n, want)
		}
	}
}

// TestHashPassword compares with OpenSSL's own.
func TestHashPassword(t *testing.T) {
	tooltest.Require(t, "openssl", "openssl")
	for _, password := range []string{"secret", "p", "correct horse battery staple, and then some more of it", "gr\u00fcn"} {
		got, err := HashPassword("ann", password)
		must(t, err)
		again, err := HashPassword("ann", password)
		must(t, err)
		other, err := HashPassword("bea", password)
		must(t, err)
		if got != again || got == other {
			t.Errorf("hashes %s, %s, %s", got, again, other)
		}
		salt := strings.Split(got, "$")[2]
		want, err := exec.Command("openssl", "passwd", "-6", "-salt", salt, password).Output()
		must(t, err)
		if got != strings.TrimSpace(string(want)) {
			t.Errorf("hash %s, openssl says %s", got, want)
		}
	}
}

func TestBuildErrors(t *testing.T) {
	for _, c := range []struct {
		r    Recipe
		want string
	}{
		{Recipe{Users: []User{{Name: "Ann"}}}, "user Ann: is not a name: a to z, 0 to 9, _, . and -, at most 32, not starting with a digit"},
		{Recipe{Users: []User{{Name: "ann", UID: 33}}}, "user ann: the number 33 is that of the user www-data"},
		{Recipe{Users: []User{{Name: "ann", Groups: []string{"wheel"}}}}, "user ann: there is no group wheel"},
		{Recipe{Users: []User{{Name: "ann", Home: "/x:y"}}}, "user ann: home, shell, comment and hash can't hold a colon or a line break"},
		{Recipe{Users: []User{{Name: "mail", UID: 7}}}, "user mail: has the number 8 in Debian"},
		{Recipe{Groups: []Group{{Name: "a", Members: []string{"nemo"}}}}, "group a: there is no user nemo"},
		{Recipe{Files: []File{{Path: "etc/x"}}}, "file etc/x: is not an absolute path"},
		{Recipe{Files: []File{{Path: "/etc", Content: "x"}}}, "file /etc: is a folder in the image"},
		{Recipe{Files: []File{{Path: "/x", Owner: "nemo"}}}, "file /x: there is no user nemo"},
		{Recipe{Files: []File{{Path: "/x", From: "/no/such"}}}, "file /x: /no/such: no such file or directory"},
		{Recipe{Files: []File{{Path: "/x/../y"}}}, "file /x/../y: holds \"..\""},
		{Recipe{Services: []string{"crnd"}}, "service crnd: has neither /etc/wolffia/services/crnd nor /etc/init.d/crnd in the image; did you mean crond?"},
		{Recipe{Services: []string{"dropbear"}}, "service dropbear: no package brings /usr/sbin/dropbear"},
		{Recipe{Deps: DepsELF, Packages: []string{"busybox"}}, "find the files of packages: the tree has no /var/lib/dpkg/info"},
	} {
		_, _, err := Build(c.r, small(t))
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v gave %q, want %q", c.r, err, c.want)
		}
	}
	_, _, err := Build(Recipe{}, tree.New())
	var e *Error
	if !errors.As(err, &e) || e.Part != "package" || e.Name != "busybox-static" {
		t.Errorf("an empty base gave %v", err)
	}
}

// TestFilesWhateverTheHost checks that owners, times and the umask of the host
// don't show, and that programs stay programs.
func TestFilesWhateverTheHost(t *testing.T) {
	image := func(perm, exec os.FileMode) *tree.Tree {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "over/etc/deep"), 0o700|perm))
		must(t, os.WriteFile(filepath.Join(dir, "over/etc/deep/conf"), []byte("x"), perm))
		must(t, os.WriteFile(filepath.Join(dir, "over/run.sh"), []byte("#!/bin/sh\n"), exec))
		must(t, os.Symlink("run.sh", filepath.Join(dir, "over/link")))
		got, _, err := Build(Recipe{Time: released, Dir: dir, Users: []User{{Name: "ann"}}, Files: []File{
			{From: "over", Path: "/"},
			{From: "over/run.sh", Path: "/usr/local/bin/"},
			{From: "over/run.sh", Path: "/opt/other", Mode: 0o4711, Owner: "ann", Group: "20"},
			{Path: "/opt/l", Link: "other"}, {Path: "/opt/d", Directory: true, Owner: "1000"}, {Path: "/bin/text", Content: "hello"},
		}}, small(t))
		must(t, err)
		return got
	}
	one, two := image(0o644, 0o755), image(0o600, 0o700)
	a, err := tree.Digest(one)
	must(t, err)
	b, err := tree.Digest(two)
	must(t, err)
	if a != b {
		t.Error("two hosts gave two images")
	}
	for name, want := range map[string][3]uint32{
		"/etc/deep/conf": {0o644, 0, 0}, "/run.sh": {0o755, 0, 0}, "/usr/local/bin/run.sh": {0o755, 0, 0},
		"/opt/other": {0o4711, 1000, 20}, "/opt/d": {0o755, 1000, 0}, "/usr/bin/text": {0o644, 0, 0}, "/etc/deep": {0o755, 0, 0},
	} {
		if n := one.Get(name); n == nil || [3]uint32{n.Mode & 0o7777, n.UID, n.GID} != want {
			t.Errorf("%s is %+v, want %v", name, n, want)
		}
	}
	if n := one.Get("/link"); n == nil || n.Target != "run.sh" {
		t.Errorf("/link is %+v", n)
	}
}

// TestHostProgram brings a program of the host with its libraries.
func TestHostProgram(t *testing.T) {
	program, err := exec.LookPath("dpkg")
	must(t, err)
	got, _, err := Build(Recipe{Time: released, Files: []File{{From: program, Path: "/usr/local/bin/prog", Libraries: true}}}, small(t))
	must(t, err)
	_, _, err = Build(Recipe{Arch: "riscv64", Files: []File{{From: program, Path: "/prog", Libraries: true}}}, small(t))
	if err == nil || !strings.HasSuffix(err.Error(), "is a program for another architecture than riscv64") {
		t.Errorf("a program for the wrong architecture gave %v", err)
	}
	l := newLoader(newTreePlace(got))
	_, missing := l.closure([]string{"/usr/local/bin/prog"})
	if len(missing) > 0 {
		t.Errorf("missing in the image: %v", missing)
	}
}

// TestSystem checks what a system on a disk starts from, for PCs and others.
func TestSystem(t *testing.T) {
	for arch, terminals := range map[string]int{"amd64": 6, "arm64": 2} {
		got, _, err := Build(Recipe{Arch: arch, Time: released, Root: "LABEL=pond"}, small(t))
		must(t, err)
		tab := text(t, got, "/etc/inittab")
		if n := strings.Count(tab, "::respawn:/usr/lib/wolffia/terminal "); n != terminals || !strings.Contains(tab, "\n::sysinit:/init\n") {
			t.Errorf("%s has\n%s", arch, tab)
		}
		if fs := text(t, got, "/etc/fstab"); !strings.Contains(fs, "\nLABEL=pond\t/\t") {
			t.Errorf("fstab holds\n%s", fs)
		}
		if got.Get("/etc/network") != nil || got.Get("/usr/lib/wolffia/single") != nil {
			t.Error("what was not asked for is there")
		}
	}
	got, _, err := Build(Recipe{Time: released, Init: InitScript}, small(t))
	must(t, err)
	if n := got.Get("/usr/sbin/init"); n == nil || n.Target != "../lib/wolffia/single" {
		t.Errorf("/sbin/init is %+v", n)
	}
	if _, _, err := Build(Recipe{Init: "systemd"}, small(t)); err == nil || err.Error() != `init "systemd" is neither busybox nor script` {
		t.Error(err)
	}
}
