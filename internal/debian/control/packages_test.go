package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const twoPackages = `Package: bash
Version: 5.2.15-2+b7
Essential: yes
Installed-Size: 7164
Maintainer: Somebody <somebody@example.org>
Architecture: amd64
Source: bash (5.2.15-2)
Replaces: bash-completion (<< 20060301-0),
 bash-doc (<= 2.05-1)
Depends: base-files (>= 2.1.12), debianutils (>= 5.6-0.1)
Pre-Depends: libc6 (>= 2.36), libtinfo6 (>= 6)
Description: GNU Bourne Again SHell
 Bash is an sh-compatible command language interpreter.
 .
 It is here.
Multi-Arch: foreign
Section: shells
Priority: required
Filename: pool/main/b/bash/bash_5.2.15-2+b7_amd64.deb
Size: 1491004
SHA256: 00000000000000000000000000000000000000000000000000000000000000ff


package: libc6
VERSION: 1:2.36-9
Architecture:	amd64	
Multi-Arch: same
`

func checkTwo(t *testing.T, list []*Package) {
	t.Helper()
	if len(list) != 2 {
		t.Fatalf("%d packages, want 2", len(list))
	}
	bash := *list[0]
	want := Package{
		Name: "bash", Version: Version{0, "5.2.15", "2+b7"}, Architecture: "amd64", MultiArch: MultiArchForeign,
		Essential: true, Priority: PriorityRequired, Section: "shells", Source: "bash (5.2.15-2)",
		PreDepends: "libc6 (>= 2.36), libtinfo6 (>= 6)", Depends: "base-files (>= 2.1.12), debianutils (>= 5.6-0.1)",
		Filename: "pool/main/b/bash/bash_5.2.15-2+b7_amd64.deb", Size: 1491004, InstalledSize: 7164 * 1024,
	}
	want.SHA256[31] = 0xff
	replaces, err := bash.Relations(Replaces)
	if err != nil || replaces.String() != "bash-completion (<< 20060301-0), bash-doc (<= 2.05-1)" {
		t.Errorf("Replaces: %v, %v", replaces, err)
	}
	bash.Replaces = ""
	if bash != want {
		t.Errorf("got  %+v\nwant %+v", bash, want)
	}
	if libc := *list[1]; libc != (Package{Name: "libc6", Version: Version{1, "2.36", "9"}, Architecture: "amd64", MultiArch: MultiArchSame}) {
		t.Errorf("got %+v", libc)
	}
}

func TestParsePackages(t *testing.T) {
	for name, text := range map[string]string{
		"plain":  twoPackages,
		"crlf":   strings.ReplaceAll(twoPackages, "\n", "\r\n"),
		"no end": strings.TrimSuffix(twoPackages, "\n"),
		"blanks": "\n \n" + twoPackages + "\n\t\n",
	} {
		t.Run(name, func(t *testing.T) {
			list, err := ParsePackages(strings.NewReader(text), nil)
			if err != nil {
				t.Fatal(err)
			}
			checkTwo(t, list)
			list, err = ParsePackages(iotest.OneByteReader(strings.NewReader(text)), nil)
			if err != nil {
				t.Fatal(err)
			}
			checkTwo(t, list)
		})
	}
	list, err := ParsePackages(strings.NewReader(twoPackages), func(p *Package) bool { return p.Name == "libc6" })
	if err != nil || len(list) != 1 || list[0].Name != "libc6" || list[0].Essential {
		t.Errorf("keep: %v, %v", list, err)
	}
}

func TestParsePackagesRefuses(t *testing.T) {
	const head = "Package: a\nVersion: 1\nArchitecture: all\n"
	for text, want := range map[string]string{
		"Package: a\nVersion: 1\n":                           "line 1: package \"a\": the architecture is missing",
		"Package: a\nArchitecture: all\n":                    "the version is missing",
		"Version: 1\nArchitecture: all\n":                    "the name is missing",
		head + "\n\nPackage: b c\nVersion: 1\n":              "line 6: package \"b c\"",
		head + "Package: b\n":                                "line 4: field Package stands twice",
		head + "Size: -1\n":                                  "size: \"-1\"",
		head + "Size: 99999999999999999999\n":                "is not a number of bytes",
		head + "SHA256: ab\n":                                "2 digits, want 64",
		head + "SHA256: " + strings.Repeat("g", 64) + "\n":   "SHA256",
		head + "Multi-Arch: sometimes\n":                     "multi-arch \"sometimes\"",
		head + "what is this\n":                              "is not a field",
		" Package: a\n":                                      "continuation line without a field",
		"Package: ../a\nVersion: 1\n":                        "the name is",
		"Package: a\nVersion: 1_2\n":                         "'_' is not allowed",
		head + "X: " + strings.Repeat("y", maxStanza) + "\n": "paragraph is longer",
	} {
		_, err := ParsePackages(strings.NewReader(text), nil)
		var syntax *SyntaxError
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &syntax) {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
	broken := errors.New("the line went dead")
	_, err := ParsePackages(io.MultiReader(strings.NewReader(head), iotest.ErrReader(broken)), nil)
	if !errors.Is(err, broken) {
		t.Errorf("a reader's error is lost: %v", err)
	}
}

// synthetic is an index of n packages like Debian's in shape.
func synthetic(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "Package: lib-example-number%d\nSource: example\nVersion: 1:%d.2.3-4+deb12u1\nInstalled-Size: %d\n"+
			"Maintainer: Debian Example Team <example@example.org>\nArchitecture: amd64\n"+
			"Depends: libc6 (>= 2.34), libgcc-s1 (>= 3.0), libexample%d (= 1:%d.2.3-4+deb12u1), zlib1g (>= 1:1.1.4)\n"+
			"Description: a package that only exists to be read by a test of a parser\n"+
			"Homepage: https://www.example.org/\nDescription-md5: 00112233445566778899aabbccddeeff\nMulti-Arch: same\n"+
			"Tag: devel::lang:c, devel::library, implemented-in::c, interface::commandline, role::devel-lib,\n uitoolkit::ncurses\n"+
			"Section: libs\nPriority: optional\nFilename: pool/main/e/example/lib-example-number%d_1.2.3-4_amd64.deb\nSize: 12345\n"+
			"MD5sum: 00112233445566778899aabbccddeeff\nSHA256: %064x\n\n", i, i, i, i, i, i, i)
	}
	return b.Bytes()
}

func BenchmarkParsePackages(b *testing.B) {
	index := synthetic(60000)
	b.SetBytes(int64(len(index)))
	b.ReportAllocs()
	for b.Loop() {
		list, err := ParsePackages(bytes.NewReader(index), nil)
		if err != nil || len(list) != 60000 {
			b.Fatal(len(list), err)
		}
	}
}

func FuzzParsePackages(f *testing.F) {
	f.Add([]byte(twoPackages))
	f.Add([]byte("Package: a\r\nVersion: 1\r\nArchitecture: all\r\n\r\nPackage: b\n"))
	f.Add([]byte("a:\n b\n\n c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParsePackages(bytes.NewReader(data), nil)
		slow, slowErr := ParsePackages(iotest.OneByteReader(bytes.NewReader(data)), nil)
		if (err == nil) != (slowErr == nil) || len(list) != len(slow) {
			t.Fatalf("reading byte by byte differs: %v, %v", err, slowErr)
		}
		// What the index parser reads, the general reader reads in the same way.
		r := NewReader(bytes.NewReader(data), ReaderOptions{})
		for i, p := range list {
			if *p != *slow[i] {
				t.Fatalf("reading byte by byte differs: %+v, %+v", p, slow[i])
			}
			par, err := r.Next()
			if err != nil {
				return // Reader is stricter on fields that Package does not have
			}
			if par.Get("Package") != p.Name || par.Get("Architecture") != p.Architecture || par.Get("Filename") != strings.TrimRight(p.Filename, " \t") {
				// Continuation lines keep their ends in Package.
				if !strings.Contains(p.Filename, "\n") && !strings.Contains(p.Architecture, "\n") {
					t.Fatalf("the two readers differ: %v, %+v", par, p)
				}
			}
		}
	})
}
