package debian

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/debian/control"
)

const testPackages = `Package: mail
Version: 1:2.0-1
Architecture: amd64
Multi-Arch: same
Essential: yes
Priority: required
Section: admin
Source: mailsrc (2.0)
Installed-Size: 12
Pre-Depends: init
Depends: libmail (>= 1), spool | queue
Recommends: nice
Suggests: more
Provides: mta, smtp (= 25)
Conflicts: other
Breaks: older
Replaces: older
Filename: pool/m/mail.deb
Size: 1234
SHA256: 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20

Package: libmail
Version: 1
Architecture: all
Filename: pool/l/libmail.deb
Size: 5
SHA256: 1102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20

Package: libmail
Version: 2
Architecture: all
Depends: mta
Filename: pool/l/libmail2.deb
Size: 6
SHA256: 2102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20

Package: lonely
Version: 1
Architecture: amd64
Provides: mta (= broken
Filename: pool/l/lonely.deb
Size: 7
SHA256: 3102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20

`

func testIndex(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeIndex(&b, strings.NewReader(testPackages)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestIndexKeepsPackages(t *testing.T) {
	data := testIndex(t)
	x, err := openIndex(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	want, err := control.ParsePackages(strings.NewReader(testPackages), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, wantOf := range map[string][]*control.Package{"mail": {want[0]}, "libmail": {want[1], want[2]}, "lonely": {want[3]}} {
		n, err := x.lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []*control.Package
		for _, off := range n.own {
			p, err := x.load(off)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, p)
		}
		if !reflect.DeepEqual(got, wantOf) {
			t.Errorf("%s: got %+v, want %+v", name, got, wantOf)
		}
	}
	for name, counts := range map[string][2]int{"mta": {0, 1}, "smtp": {0, 1}, "": {1, 0}, "mai": {0, 0}, "zzz": {0, 0}} {
		n, err := x.lookup(name)
		if err != nil || len(n.own) != counts[0] || len(n.provide) != counts[1] {
			t.Errorf("%q: %+v, %v", name, n, err)
		}
	}
	for prefix, want := range map[string]string{"": "libmail lonely mail", "l": "libmail lonely", "mail": "mail", "mt": "", "z": ""} {
		if got := strings.Join(x.begin(prefix, 9), " "); got != want {
			t.Errorf("%q begins %q, want %q", prefix, got, want)
		}
	}
	if got := x.begin("", 2); len(got) != 2 {
		t.Errorf("two names are %q", got)
	}
	if got := x.names(); !slices.Equal(got, []string{"libmail", "lonely", "mail", "mta", "smtp"}) {
		t.Error(got)
	}
}

func TestReach(t *testing.T) {
	data := testIndex(t)
	reached := func(names ...string) []string {
		x, err := openIndex(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		u := universe{parts: []part{{index: x, archive: "a", loaded: map[uint32]bool{}}}, from: map[*control.Package]string{}}
		if err := u.reach(names, []control.Kind{control.Depends}); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range u.lists()[0] {
			out = append(out, p.Name+"="+p.Version.String())
			if u.from[p] != "a" {
				t.Errorf("%s is from nowhere", p)
			}
		}
		return out
	}
	if got := reached("mta"); !slices.Equal(got, []string{"libmail=1", "libmail=2", "mail=1:2.0-1"}) {
		t.Error(got)
	}
	if got := reached("lonely", "nothing"); !slices.Equal(got, []string{"lonely=1"}) {
		t.Error(got)
	}
	if got := reached(""); len(got) != 3 {
		t.Error(got)
	}
}

// TestIndexDamaged changes every byte in turn: nothing is ever read wrongly.
func TestIndexDamaged(t *testing.T) {
	data := testIndex(t)
	want := map[string]bool{}
	readIndex(data, func(p *control.Package) { want[p.String()+p.Depends+p.Filename] = true })
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x55
		if err := readIndex(bad, func(p *control.Package) {
			if !want[p.String()+p.Depends+p.Filename] {
				t.Fatalf("byte %d: read %+v", i, p)
			}
		}); err == nil {
			t.Errorf("byte %d: nothing was noticed", i)
		}
		if err := readIndex(data[:i], func(*control.Package) {}); err == nil {
			t.Errorf("cut off at %d: nothing was noticed", i)
		}
	}
}

// readIndex reads all that an index has.
func readIndex(data []byte, fn func(*control.Package)) error {
	x, err := openIndex(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range append(x.names(), "") {
		n, err := x.lookup(name)
		errs = append(errs, err)
		for _, off := range append(n.own, n.provide...) {
			p, err := x.load(off)
			errs = append(errs, err)
			if err == nil {
				fn(p)
			}
		}
	}
	return errors.Join(errs...)
}
