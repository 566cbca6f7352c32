package rootfs_test

import (
	"context"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/machine/machinetest"
	. "wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// elsewhere is a system that wolffia has not made: of an older release, /usr not
// merged, without dpkg's lists, with bash as its shell, commands that do
// something else than busybox's, and the init of somebody else.
func elsewhere(t testing.TB) *tree.Tree {
	t.Helper()
	c, _ := machinetest.Archive(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	lock, err := c.Resolve(ctx, debian.Request{Release: "bookworm", Arch: "amd64", Packages: []string{"bash", "coreutils", "dropbear-bin", "util-linux"}})
	must(t, err)
	must(t, c.Fetch(ctx, lock))
	u, err := c.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true, SplitUsr: true})
	must(t, err)
	t.Cleanup(func() { u.Close() })
	base := u.Tree
	for _, name := range []string{"/usr/sbin/dropbear", "/usr/share", "/usr/lib/x86_64-linux-gnu/gconv", "/usr/lib/x86_64-linux-gnu/perl-base", "/usr/bin/perl"} {
		base.Remove(name) // to be small, but for the first
	}
	put := func(name string, n *tree.Node) {
		must(t, base.MkdirAll(path.Dir(name), 0o755))
		must(t, base.Put(name, n))
	}
	text := func(name, text string, perm uint32) { put(name, tree.File(perm, tree.Bytes(text))) }
	put("/bin/sh", tree.Symlink("bash"))
	for _, name := range []string{"/sbin/init", "/bin/nc", "/bin/ip", "/usr/bin/nsenter", "/sbin/ifconfig", "/usr/sbin/getty", "/bin/cp"} {
		text(name, "#!/bin/bash\necho \"WRONG $0\"\nexit 1\n", 0o755)
	}
	text("/etc/inittab", "id:3:initdefault:\n", 0o644)
	text("/etc/passwd", "root:x:0:0::/root:/bin/bash\neve:x:500:500::/home/eve:/bin/bash\n+nis\n", 0o644)
	text("/etc/shadow", "root:!:19000:0:::::\neve:$6$x$y:19000:0:99999:7:::\n", 0o600)
	text("/etc/group", "root:x:0:\neve:x:500:\nfriends:x:501:eve,root\n", 0o644)
	text("/etc/shells", "/bin/sh", 0o644)
	text("/etc/nsswitch.conf", "passwd: sss files systemd\n", 0o644)
	put("/etc/resolv.conf", tree.Symlink("../run/nobody/resolv.conf"))
	return base
}

func tools(t testing.TB) *tree.Tree { return packages(t, "trixie", "amd64", ToolPackages...) }

// checks is what is looked at from inside.
func checks(extra string) []File {
	return []File{
		{Path: "/etc/test.key", Content: string(DropbearKey(testKey(1))), Mode: 0o600},
		service("check", `
echo "CHECK path $PATH"
nc=$(pidof nc || /usr/lib/wolffia/bin/pidof nc)
/usr/lib/wolffia/bin/nsenter -t $nc -n /usr/lib/wolffia/bin/ip link set lo up
`+extra),
	}
}

// TestBootElsewhere boots a system from elsewhere, with what is wolffia's beside
// it, and lets the host in.
func TestBootElsewhere(t *testing.T) {
	image, _, err := Build(Recipe{
		Time: released, Release: "trixie", Arch: "amd64", Tools: tools(t), Users: []User{{Name: "joe", Groups: []string{"friends"}}},
		Files: checks(`
echo "CHECK cp $(cp)"
export HOME=/tmp
/usr/lib/wolffia/bin/sleep 1
/usr/lib/wolffia/bin/nsenter -t $nc -n dbclient -y -y -i /etc/test.key root@169.254.77.2 'echo "CHECK ssh $BASH $(/usr/bin/id -un joe) $(id -Gn joe)"; exit 7'
echo "CHECK status $?"
`),
		Services: []string{"check"},
	}, elsewhere(t))
	must(t, err)
	g := boot(t, image, identity(t), []step{{"# ", "echo CHECK shell ${BASH_VERSION%%.*} $0 $PATH\nexit\n"}})
	t.Log(g)
	g.saw(t, "CHECK path /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CHECK cp WRONG /bin/cp",
		"CHECK ssh /bin/bash joe joe friends", "CHECK status 7", "CHECK shell 5 /bin/bash /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if !slices.Contains(g.status, "ready") {
		t.Error("it never was ready")
	}
	for _, l := range g.status {
		if strings.HasPrefix(l, "error") {
			t.Error(l)
		}
	}
	for name, want := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/bash\neve:x:500:500::/home/eve:/bin/bash\njoe:x:1000:1000::/home/joe:/bin/sh\n",
		"/etc/shadow": "root:!:19000:0:::::\neve:$6$x$y:19000:0:99999:7:::\njoe:*:1:0:99999:7:::\n",
		"/etc/group":  "root:x:0:\neve:x:500:\nfriends:x:501:eve,root,joe\njoe:x:1000:\n",
		"/etc/shells": "/bin/sh\n/bin/bash\n",
	} {
		if got := text(t, image, name); got != want {
			t.Errorf("%s is\n%snot\n%s", name, got, want)
		}
	}
}

// TestBootNothing boots what was made of nothing but the tools, with a ssh
// server of its own.
func TestBootNothing(t *testing.T) {
	image, _, err := Build(Recipe{
		Time: released, Release: "trixie", Arch: "amd64", Tools: tools(t), Services: []string{"dropbear", "check"},
		Files: checks(`
tries=0
until nc -w 2 127.0.0.1 22 </dev/null | grep -q SSH || [ $tries -gt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
echo "CHECK dropbear $(nc -w 2 127.0.0.1 22 </dev/null | cut -c1-8)"
`),
	}, tree.New())
	must(t, err)
	g := boot(t, image, identity(t), []step{{"# ", "echo CHECK shell $USER\nexit\n"}})
	t.Log(g)
	g.saw(t, "CHECK dropbear SSH-2.0-", "CHECK shell root")
}

// TestScriptsCallTools finds programs that a script of a system from elsewhere
// would not find, or find another one of that name.
func TestScriptsCallTools(t *testing.T) {
	image, _, err := Build(Recipe{Time: released, Arch: "amd64", Tools: tools(t), Init: InitScript}, tree.New())
	must(t, err)
	absolute := regexp.MustCompile(`(/usr)?/s?bin/[a-z]+`)
	for _, name := range []string{"/init", "/usr/lib/wolffia/session", "/usr/lib/wolffia/poweroff", "/usr/lib/wolffia/terminal", "/usr/lib/wolffia/disk", "/usr/lib/wolffia/single", "/etc/udhcpc/default.script"} {
		for line := range strings.Lines(text(t, image, name)) {
			line, _, _ := strings.Cut(strings.ReplaceAll(line, "#!", "!"), "#")
			for _, p := range absolute.FindAllString(strings.ReplaceAll(line, "/usr/lib/wolffia/bin/", "@"), -1) {
				if p != "/bin/sh" || strings.HasPrefix(line, "!") {
					t.Errorf("%s: %q calls %s", name, strings.TrimSpace(line), p)
				}
			}
		}
	}
	if _, n, err := image.Resolve("/usr/lib/wolffia/bin/init"); err != nil || n != image.Get("/usr/lib/wolffia/single") {
		t.Errorf("init is not the single script: %v", err)
	}
}

// TestLay lays packages over a system that has some of them already.
func TestLay(t *testing.T) {
	base := tree.New()
	for _, dir := range []string{"/usr/bin", "/var/lib/dpkg", "/etc", "/opt/real"} {
		must(t, base.MkdirAll(dir, 0o750))
	}
	put := func(tr *tree.Tree, name, text string) {
		must(t, tr.MkdirAll(path.Dir(name), 0o755))
		must(t, tr.Put(name, tree.File(0o644, tree.Bytes(text))))
	}
	must(t, base.Put("/bin", tree.Symlink("usr/bin")))
	must(t, base.Put("/linked", tree.Symlink("opt/real")))
	put(base, "/usr/bin/old", "base")
	put(base, "/usr/bin/both", "base")
	put(base, "/var/lib/dpkg/status", "Package: kept\nArchitecture: amd64\nVersion: 1\n\nPackage: again\nArchitecture: amd64\nVersion: 1\n")
	added := tree.New()
	must(t, added.MkdirAll("/usr/share", 0o755))
	must(t, added.Put("/bin", tree.Symlink("usr/bin")))
	put(added, "/usr/bin/both", "package")
	put(added, "/linked/new", "package")
	must(t, added.Put("/opt", tree.Symlink("srv"))) // the base has a folder there
	put(added, "/var/lib/dpkg/status", "Package: again\nArchitecture: amd64\nVersion: 2\n\n")
	out, err := Lay(base, added)
	must(t, err)
	for name, want := range map[string]string{
		"/usr/bin/old": "base", "/bin/both": "package", "/opt/real/new": "package",
		"/var/lib/dpkg/status": "Package: kept\nArchitecture: amd64\nVersion: 1\n\nPackage: again\nArchitecture: amd64\nVersion: 2\n\n",
	} {
		_, n, err := out.Resolve(name)
		must(t, err)
		b, err := out.ReadFile(name, 1000)
		if string(b) != want || err != nil || n.IsDir() {
			t.Errorf("%s is %q, not %q: %v", name, b, want, err)
		}
	}
	if out.Get("/usr/bin").Mode != tree.TypeDir|0o750 || string(text(t, base, "/usr/bin/both")) != "base" {
		t.Error("a folder of the base, or the base itself, was changed")
	}
	bad := tree.New()
	put(bad, "/linked", "no link")
	if _, err := Lay(base, bad); err == nil {
		t.Error("a file was laid over a folder")
	}
}

// TestLayLoader lays packages over a system with another C library.
func TestLayLoader(t *testing.T) {
	p := packages(t, "trixie", "amd64", "libc6")
	_, err := Lay(elsewhere(t), p)
	if e := (*LoaderError)(nil); !errors.As(err, &e) || e.Path != "/lib64/ld-linux-x86-64.so.2" {
		t.Errorf("%v", err)
	}
	if _, err := Lay(tree.New(), p); err != nil {
		t.Error(err)
	}
}
