package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A program in a jail has the folders that it is given, as they are given, and
// gets at nothing else of the host's by "..", links or mounts.
func TestJail(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"jail", "work", "open", "fixed"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	secret := put("secret", "found\n")
	put("fixed/word", "fixed\n")
	single := put("single", "single\n")
	script := put("script", strings.ReplaceAll(`cat /fixed/word /one; echo new >/open/new && cat /open/new
echo x >/fixed/x || echo kept; echo x >/x || echo kept; echo x >/one || echo kept; echo x >/proc/self/comm || echo kept
ln -s SECRET /open/link; cat /open/link SECRET ../secret ../../../../../../../../..SECRET
mkdir /open/d; cd /open/d; cat SECRET ../../SECRET
cd /; mknod /open/null c 1 3 && echo x >/open/null && echo device
echo x >/dev/null && echo null; echo x >/mem/x && cat /mem/x; ls /proc | grep -c '^1$'; grep CapAmb /proc/self/status; ls /
`, "SECRET", secret))
	var mounts []Mount
	for _, d := range []string{"/bin", "/lib", "/lib64", "/usr"} {
		if _, err := os.Stat(d); err == nil {
			mounts = append(mounts, Mount{Kind: ReadOnly, From: d, At: d})
		}
	}
	mounts = append(mounts,
		Mount{Kind: Device, From: "/dev/null", At: "/dev/null"}, Mount{Kind: Processes, At: "/proc"}, Mount{Kind: Memory, At: "/mem", Size: 1 << 20},
		Mount{Kind: ReadWrite, From: filepath.Join(dir, "work"), At: filepath.Join(dir, "work")},
		Mount{Kind: ReadWrite, From: filepath.Join(dir, "open"), At: "/open"}, Mount{Kind: ReadOnly, From: filepath.Join(dir, "fixed"), At: "/fixed"},
		Mount{Kind: ReadOnly, From: single, At: "/one"}, Mount{Kind: ReadOnly, From: script, At: "/script"})
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := Command{
		Path: "/bin/sh", Argv: []string{"sh", "/script"}, Env: []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin"}, Dir: filepath.Join(dir, "work"),
		Stdio: [3]*os.File{1: out}, Jail: &Jail{Dir: filepath.Join(dir, "jail"), Mounts: mounts},
	}
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	if ws, err := p.Wait(); !ws.Exited() || err != nil {
		t.Errorf("%v, %v", ws, err)
	}
	said, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := "fixed\nsingle\nnew\nkept\nkept\nkept\nkept\nnull\nx\n1\nCapAmb:\t0000000000000000\n"
	if !strings.HasPrefix(string(said), want) || !strings.HasSuffix(string(said), "\nusr\n") {
		t.Errorf("it says %q, want %q", said, want)
	}
	if left, _ := filepath.Glob(c.Jail.Dir + "/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	c.Jail.Mounts = append(c.Jail.Mounts, Mount{Kind: ReadOnly, From: "/nothing", At: "/nothing"})
	var none *NoJailError
	if _, err := Start(c); !errors.As(err, &none) || !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "mount /nothing at /nothing") {
		t.Errorf("a mount of nothing: %v", err)
	}
	c.Mode = Subreaper
	if _, err := Start(c); !errors.As(err, &none) {
		t.Errorf("a jail without namespaces: %v", err)
	}
}
