package debian

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func FuzzSourcesList(f *testing.F) {
	f.Add([]byte("deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main # x\n"))
	f.Add([]byte("deb cdrom:[Debian]/ bookworm main\ndeb-src x\ndeb http://m ./\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := ParseSourcesList(data, "f")
		checkSources(t, list)
	})
}

func FuzzSources(f *testing.F) {
	f.Add([]byte("Types: deb\nURIs: http://m.example/debian\nSuites: a b\nComponents: main\nSigned-By: /k.gpg\n"))
	f.Add([]byte("Types: deb\nURIs: a b\nSuites: ./\nEnabled: no\n\nTypes: deb\nURIs: c\nSuites: x\nSigned-By:\n -----BEGIN PGP\n .\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := ParseSources(data, "f")
		checkSources(t, list)
	})
}

// checkSources lets the choice of a mirror have what was read.
func checkSources(t *testing.T, list []Source) {
	for _, s := range list {
		if s.URI == "" || s.Suite == "" {
			t.Fatalf("an entry without URI or suite: %+v", s)
		}
		if strings.HasPrefix(s.URI, "mirror+file:") {
			return // reads the host's files
		}
	}
	if m, _ := pickMirror(list); m.URI != "" {
		if again, err := checkURI(m.URI); err != nil || again != m.URI {
			t.Fatalf("mirror %q: %v", m.URI, err)
		}
	}
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Suite: s\nCodename: c\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nValid-Until: Sat, 19 Sep 2026 07:55:41 UTC\nArchitectures: amd64 all\n" +
		"SHA256:\n 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20 12 main/binary-amd64/Packages.gz\n"))
	f.Add([]byte("Date: Sat, 12 Sep 2026 07:55:41 +0000\nSHA256: x/binary-y z\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRelease(data)
		if err != nil {
			return
		}
		checkRelease(r, "u", "s", time.Unix(1e9, 0), false)
		for _, arch := range r.Architectures {
			for _, forms := range r.packagesFiles("main", arch) {
				if len(forms) == 0 || r.files[forms[0]].size < 0 {
					t.Fatalf("forms %q", forms)
				}
			}
		}
	})
}

func FuzzInRelease(f *testing.F) {
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: s\n-----BEGIN PGP SIGNATURE-----\n\niQEz\n-----END PGP SIGNATURE-----\n"))
	keys, err := parseKeys(debianKeys)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if text, err := verifyInRelease(data, "u", keys, time.Unix(1.8e9, 0)); err == nil {
			t.Fatalf("verified: %q", text)
		}
	})
}

func FuzzLocks(f *testing.F) {
	f.Add(Locks{testLock()}.Bytes())
	f.Add([]byte("Lock-Format: 1\n\nRelease: a\nArchitecture: b\nDate: 2026-01-02T03:04:05Z\nPackages:\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		locks, err := ParseLocks(data)
		if err != nil {
			return
		}
		text := locks.Bytes()
		again, err := ParseLocks(text)
		if err != nil {
			t.Fatalf("what was written can't be read: %v\n%s", err, text)
		}
		if !bytes.Equal(again.Bytes(), text) {
			t.Fatalf("written otherwise the second time:\n%s\n%s", text, again.Bytes())
		}
		for _, l := range locks {
			for i := range l.Packages {
				if strings.Contains("/"+l.Packages[i].Path+"/", "/../") {
					t.Fatalf("path %q", l.Packages[i].Path)
				}
			}
		}
	})
}

// FuzzIndex goes around the checksums, which would keep out all that is new.
func FuzzIndex(f *testing.F) {
	data := testIndex(f)
	x, err := openIndex(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[2:40], x.entries, x.offsets)
	f.Fuzz(func(t *testing.T, record, entries, offsets []byte) {
		if p, err := decodePackage(record); err == nil {
			again, err := decodePackage(appendPackage(nil, p))
			if err != nil || *again != *p {
				t.Fatalf("%+v is read back as %+v, %v", p, again, err)
			}
		}
		x := index{r: bytes.NewReader(record), records: int64(len(record)), entries: entries, offsets: offsets[:len(offsets)/4*4]}
		names := x.names()
		for _, name := range names[:min(len(names), 20)] {
			n, _ := x.lookup(name)
			for _, off := range n.own[:min(len(n.own), 20)] {
				x.load(off)
			}
		}
	})
}

func FuzzUnpacked(f *testing.F) {
	f.Add([]byte(unpackedMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "u")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		readUnpacked(file)
	})
}
