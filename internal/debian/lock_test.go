package debian

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian/control"
)

func testLock() *Lock {
	v, _ := control.ParseVersion("1:1.0-1+b2")
	return &Lock{
		Request: Request{Release: "trixie", Arch: "arm64", Packages: []string{"b", "a=1.0"}, Exclude: []string{"c"}, Recommends: true},
		Date:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Packages: []Pin{
			{Name: "a", Arch: "arm64", Version: v, SHA256: [32]byte{1}, Size: 10, Archive: archiveMain, Path: "pool/main/a/a_1.0-1+b2_arm64.deb"},
			{Name: "b", Arch: "all", Version: v, SHA256: [32]byte{2}, Size: 20, Archive: archiveSecurity, Path: "pool/b.deb"},
		},
	}
}

func TestLockFile(t *testing.T) {
	lock := testLock()
	other := &Lock{Request: Request{Release: "bookworm", Arch: "amd64"}, Date: lock.Date}
	locks := Locks{}.Put(lock).Put(other).Put(lock)
	if len(locks) != 2 || locks[0] != other {
		t.Fatalf("%+v", locks)
	}
	path := filepath.Join(t.TempDir(), "wolffia.lock")
	if got, err := ReadLocks(path); got != nil || err != nil {
		t.Errorf("a missing file: %v, %v", got, err)
	}
	if err := WriteLocks(path, locks); err != nil {
		t.Fatal(err)
	}
	first, _ := os.Stat(path)
	got, err := ReadLocks(path)
	if err != nil {
		t.Fatal(err)
	}
	want := *lock
	want.Request = want.Request.normal()
	if !reflect.DeepEqual(got[1], &want) {
		t.Errorf("got  %+v\nwant %+v", got[1], &want)
	}
	if !bytes.Equal(got.Bytes(), locks.Bytes()) || got[1].Digest() != lock.Digest() {
		t.Error("what is read back is written otherwise")
	}
	if err := WriteLocks(path, got); err != nil {
		t.Error(err)
	}
	if again, _ := os.Stat(path); !os.SameFile(first, again) {
		t.Error("a file that did not change was written again")
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
}

func TestLockMatchesRequest(t *testing.T) {
	lock := testLock()
	locks := Locks{lock}
	same := lock.Request
	same.Packages = []string{"a=1.0", "b", "a=1.0"} // another order, and twice
	if locks.Find(same) != lock {
		t.Error("the same request is not found")
	}
	for name, change := range map[string]func(*Request){
		"release":    func(r *Request) { r.Release = "sid" },
		"arch":       func(r *Request) { r.Arch = "amd64" },
		"packages":   func(r *Request) { r.Packages = []string{"a"} },
		"exclude":    func(r *Request) { r.Exclude = nil },
		"recommends": func(r *Request) { r.Recommends = false },
		"essential":  func(r *Request) { r.Essential = true },
	} {
		r := lock.Request
		change(&r)
		if locks.Find(r) != nil {
			t.Errorf("another %s is the same request", name)
		}
	}
	if got := locks.Keep(same); len(got) != 1 {
		t.Error("Keep removed it")
	}
	if got := locks.Keep(); len(got) != 0 {
		t.Error("Keep kept it")
	}
}

func TestParseLocksErrors(t *testing.T) {
	good := string(Locks{testLock()}.Bytes())
	for _, tc := range []struct{ from, to, want string }{
		{"Lock-Format: 1", "Lock-Format: 2", "another version of wolffia"},
		{"Release: trixie\n", "", "is missing"},
		{"Date: 2026", "Date: x", "field Date"},
		{"With: recommends", "With: bells", `unknown word "bells"`},
		{"01000000", "zz000000", "is not a SHA-256"},
		{" 10 debian", " -1 debian", "is not a size"},
		{" 10 debian", " 10 ubuntu", "neither debian nor"},
		{"pool/main/a/", "../", "not a path below"},
		{"pool/main/a/", "/pool/", "not a path below"},
		{" a arm64", " A! arm64", "not a package's name"},
		{"pool/b.deb", "", "it is not name, architecture"},
		{good, "", "it is empty"},
	} {
		bad := strings.Replace(good, tc.from, tc.to, 1)
		if _, err := ParseLocks([]byte(bad)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q for %q: %v", tc.to, tc.from, err)
		}
	}
}
