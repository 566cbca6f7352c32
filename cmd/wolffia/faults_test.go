package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// checkCache holds the packages in a person's cache to their names, which are
// their digests.
func (p *person) checkCache(t testing.TB) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(p.cache, "deb", "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != filepath.Base(f) {
			t.Errorf("%s holds something else: %x", f, sum)
		}
	}
}

// failed wants status 1 and, after warnings, one line that says all of says.
func (o outcome) failed(t testing.TB, says ...string) {
	t.Helper()
	last := o.err
	for strings.HasPrefix(last, "wolffia: warning: ") {
		_, last, _ = strings.Cut(last, "\n")
	}
	if o.status != 1 || !oneLine(last) || o.out != "" {
		t.Errorf("want status 1 and one line: %v", o)
	}
	for _, s := range says {
		if !strings.Contains(last, s) {
			t.Errorf("%q is not in: %v", s, o)
		}
	}
}

// oneLine says whether a text is one line of wolffia's own, without control
// characters.
func oneLine(s string) bool {
	return strings.HasPrefix(s, "wolffia: ") && strings.HasSuffix(s, "\n") && strings.Count(s, "\n") == 1
}

// TestMirrorFaults builds an image from an archive that misbehaves: one line
// that names the file and the fix, status 1, nothing half-written, and the next
// try succeeds.
func TestMirrorFaults(t *testing.T) {
	t.Parallel() // it waits more than it works
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	const deb = "busybox-static_"
	cases := []struct {
		name  string
		fault fault
		says  []string
	}{
		{"package absent", only(deb, answer(404)), []string{deb, "404"}},
		{"package forbidden", only(deb, answer(403)), []string{deb, "403"}},
		{"server broken", only(deb, answer(500)), []string{deb, "500"}},
		{"package changed", only(deb, change), []string{deb, "--mirror"}},
		{"package cut short", only(deb, cut), []string{deb, "--mirror"}},
		{"package refused", only(deb, drop), []string{deb, "--mirror"}},
		{"InRelease absent", only("InRelease", answer(404)), []string{"InRelease", "404"}},
		{"InRelease changed", only("InRelease", change), []string{"InRelease", "--mirror"}},
		{"InRelease cut short", only("InRelease", cut), []string{"InRelease", "--mirror"}},
		{"Packages changed", only("binary-amd64", change), []string{"binary-amd64", "--mirror"}},
		{"Packages cut short", only("binary-amd64", cut), []string{"binary-amd64", "--mirror"}},
		{"package hangs", only(deb, hang), []string{deb, "nothing came for", "--mirror"}},
		{"archive hangs", hang, []string{"InRelease", "nothing came for", "--mirror"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newcomer(t)
			a := openArchive(t)
			a.spoil(c.fault)
			out := filepath.Join(p.home, "out.cpio")
			args := []string{"build", "-q", a.flag(), "-o", out}
			o := p.try(t, call{program: plain, limit: cold}, args...)
			o.failed(t, c.says...)
			if left, _ := filepath.Glob(filepath.Join(p.home, "*")); len(left) > 0 {
				t.Errorf("half-written: %q", left)
			}
			p.checkCache(t)
			a.spoil(nil)
			o = p.run(t, call{program: plain, limit: cold}, args...)
			p.checkBuilt(t, o, out)
			p.checkCache(t)
		})
	}
}

// checkBuilt holds what build printed to what it wrote.
func (p *person) checkBuilt(t testing.TB, o outcome, out string) (digest string) {
	t.Helper()
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatalf("%v: %v", err, o)
	}
	digest = fmt.Sprintf("%x", sha256.Sum256(data))
	if f := strings.Fields(o.out); len(f) != 3 || f[0] != digest || f[1] != fmt.Sprint(len(data)) {
		t.Errorf("%s is %s, %d bytes, and build printed %q", out, digest, len(data), o.out)
	}
	return digest
}

// TestNoMirror names every way to name a mirror where none is known, or where
// it can't be reached.
func TestNoMirror(t *testing.T) {
	parallel(t)
	p := newcomer(t)
	port := freePort(t)
	o := p.try(t, call{limit: cold}, "run", "-q", fmt.Sprintf("--mirror=http://127.0.0.1:%d/debian", port), "--", "true")
	o.failed(t, "--mirror", "InRelease", "refused")
	o = p.try(t, call{}, "run", "-q", "--offline", "--", "true")
	o.failed(t, "without --offline")
	wrap := inNamespace(t, "mkdir $HOME/empty; mount --bind $HOME/empty /etc/apt")
	o = p.try(t, call{wrap: wrap, env: []string{"WOLFFIA_MIRROR="}}, "run", "-q", "--", "true")
	o.failed(t, "--mirror", "WOLFFIA_MIRROR", "wolffia.yaml")
}

// TestOfflineOnceCached boots without any network, from the cache.
func TestOfflineOnceCached(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	o := p.run(t, call{program: plain, wrap: inNamespace(t, "")}, "run", "--offline", "--", "echo", "up")
	if o.out != "up\n" || o.err != "" {
		t.Error(o)
	}
}

// TestFullDisk builds on a disk that is nearly full, and then on the same disk
// with room.
func TestFullDisk(t *testing.T) {
	parallel(t)
	p := newcomer(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	wrap := []string{tooltest.Require(t, "unshare", "util-linux"), "--user", "--map-root-user", "--mount", "--", "sh", "-c", `
		mkdir -p "$WOLFFIA_CACHE"; mount -t tmpfs -o size=200m tmpfs "$WOLFFIA_CACHE"
		head -c $((200 - $1))M /dev/zero >"$WOLFFIA_CACHE/ballast"; shift
		"$@"
		echo "status $?" >&2
		ls "$HOME" | grep -v ^cache >&2
		rm "$WOLFFIA_CACHE/ballast"
		exec "$@"`, "full"}
	for _, left := range []string{"1", "8", "50"} { // while the index, a package, an unpacked one is written
		t.Run(left+"M", func(t *testing.T) {
			c := call{program: plain, wrap: append(slices.Clone(wrap), left), limit: cold}
			out := filepath.Join(p.home, "out.cpio")
			o := p.run(t, c, "build", "-q", "-o", out)
			first, rest, _ := strings.Cut(o.err, "\n")
			if rest != "status 1\n" || !strings.Contains(first, "no space left on device") ||
				!strings.Contains(first, p.cache) || !strings.Contains(first, "wolffia cache prune") {
				t.Error(o)
			}
			p.checkBuilt(t, o, out)
			os.Remove(out)
		})
	}
}

// TestFullDiskForOutput leaves nothing of an image that does not fit where it
// is to go.
func TestFullDiskForOutput(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	dir := p.folder(t, "small")
	wrap := []string{tooltest.Require(t, "unshare", "util-linux"), "--user", "--map-root-user", "--mount", "--", "sh", "-c", `
		mount -t tmpfs -o size=1m tmpfs "$HOME/small"; echo old >"$HOME/small/out.cpio"
		"$@"; status=$?; ls "$HOME/small"; cat "$HOME/small/out.cpio" | head -c 100; exit $status`, "full"}
	o := p.try(t, call{wrap: wrap}, "build", "-q", "-o", filepath.Join(dir, "out.cpio"))
	if o.status != 1 || !oneLine(o.err) || !strings.Contains(o.err, "no space left on device") || o.out != "out.cpio\nold\n" {
		t.Error(o)
	}
}

// TestFullDiskForMachine ends a machine with one report when what it writes to
// its disk has no room on the host. User-Mode Linux used to go on, and to lose it.
func TestFullDiskForMachine(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	dir := p.folder(t, "small")
	wrap := []string{tooltest.Require(t, "unshare", "util-linux"), "--user", "--map-root-user", "--mount", "--", "sh", "-c", `
		mount -t tmpfs -o size=24m,mode=700 tmpfs "$HOME/small"
		XDG_RUNTIME_DIR=$HOME/small "$@"; status=$?; find "$HOME/small" -type f; exit $status`, "full"}
	for _, backend := range []string{"uml", "qemu"} {
		o := p.try(t, call{program: p.plain(t), wrap: wrap, limit: cold}, "run", "-q", "--backend", backend, "--root", "disk", "--", "sh", "-c",
			"dd if=/dev/zero of=/big bs=1M count=48 2>/dev/null; sync; sleep 60; echo written")
		want := "cause:   the host's disk is full: what the machine writes to its own disk can't be kept in the machine's folder, " + dir + "/"
		if o.status != 125 || o.out != "" || strings.Count(o.err, "wolffia: ") != 1 || !strings.Contains(o.err, want) {
			t.Error(backend, o)
		}
	}
}

// TestReadOnlyCache works from a cache that it can't write, as long as all is
// there, and says what to do where it is not.
func TestReadOnlyCache(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	wrap := inNamespace(t, `mount --bind "$WOLFFIA_CACHE" "$WOLFFIA_CACHE"; mount -o remount,bind,ro "$WOLFFIA_CACHE"`)
	if o := p.run(t, call{program: plain, wrap: wrap}, "run", "--", "echo", "up"); o.out != "up\n" {
		t.Error(o)
	}
	wrap[5] = "--mount" // with the host's network
	o := p.try(t, call{program: plain, wrap: wrap}, "run", "-q", "-p", "hello", "--", "hello")
	o.failed(t, p.cache, "WOLFFIA_CACHE")

	q := newcomer(t)
	if err := q.own(q.cache); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(q.cache, 0o555); err != nil {
		t.Fatal(err)
	}
	o = q.try(t, call{program: plain}, "run", "-q", "--", "true")
	o.failed(t, q.cache, "WOLFFIA_CACHE")
	if err := os.Chmod(q.cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if o := q.run(t, call{program: plain, limit: cold}, "run", "--", "echo", "up"); o.out != "up\n" {
		t.Error(o)
	}
}
