package rootfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
)

// ldd asks the host's loader which files a program maps, with all links followed.
func ldd(t *testing.T, program string) []string {
	t.Helper()
	tooltest.Require(t, "ldd", "libc-bin")
	text, err := exec.Command("ldd", program).Output()
	must(t, err)
	var out []string
	for line := range strings.Lines(string(text)) {
		for _, word := range strings.Fields(line) {
			if !strings.HasPrefix(word, "/") {
				continue
			}
			p, err := filepath.EvalSymlinks(word)
			must(t, err)
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestHostLibrariesAsLdd compares with the loader itself.
func TestHostLibrariesAsLdd(t *testing.T) {
	for _, program := range []string{"/bin/sh", "/usr/bin/apt-get", "/usr/bin/gpgv", "/usr/bin/perl", "/usr/bin/git"} {
		program, err := filepath.EvalSymlinks(program)
		if err != nil {
			continue // not every host has all of them
		}
		libs, err := HostLibraries(program)
		must(t, err)
		if len(libs.Missing) > 0 {
			t.Errorf("%s: missing %v", program, libs.Missing)
		}
		var got []string
		for _, f := range libs.Files {
			p, err := filepath.EvalSymlinks(f)
			must(t, err)
			got = append(got, p)
		}
		slices.Sort(got)
		got = slices.Compact(got)
		if want := ldd(t, program); !slices.Equal(got, want) {
			t.Errorf("%s needs\n%v, ldd says\n%v", program, got, want)
		}
	}
}

// TestReadObjectAsStandardLibrary compares with package debug/elf on all of
// the host's libraries.
func TestReadObjectAsStandardLibrary(t *testing.T) {
	files, err := filepath.Glob("/usr/lib/*-linux-gnu/*.so*")
	must(t, err)
	compared := 0
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		must(t, err)
		got, err := readObject(f, info.Size())
		if e, stdErr := elf.NewFile(f); stdErr == nil {
			must(t, err)
			want, err := e.ImportedLibraries()
			must(t, err)
			if !slices.Equal(got.needed, want) {
				t.Errorf("%s needs %v, debug/elf says %v", name, got.needed, want)
			}
			compared++
		}
		f.Close()
	}
	if compared < 20 {
		t.Errorf("only %d libraries to compare", compared)
	}
}

// elfFile makes a small 64-bit program or library.
type elfFile struct {
	machine        uint16
	interp         string
	needed         []string
	rpath, runpath string
	big            bool // 32 bits, most significant byte first
}

func (e elfFile) bytes() []byte {
	var strtab bytes.Buffer
	strtab.WriteByte(0)
	str := func(s string) uint64 {
		at := strtab.Len()
		strtab.WriteString(s + "\x00")
		return uint64(at)
	}
	type pair struct{ tag, value uint64 }
	var dyn []pair
	for _, n := range e.needed {
		dyn = append(dyn, pair{dtNeeded, str(n)})
	}
	if e.rpath != "" {
		dyn = append(dyn, pair{dtRpath, str(e.rpath)})
	}
	if e.runpath != "" {
		dyn = append(dyn, pair{dtRunpath, str(e.runpath)})
	}
	const base = 0x10000
	header, phdr, word := 64, 56, 8
	order := binary.ByteOrder(binary.LittleEndian)
	if e.big {
		header, phdr, word, order = 52, 32, 4, binary.BigEndian
	}
	interpAt := header + 3*phdr
	dynAt := interpAt + len(e.interp) + 1
	strAt := dynAt + 2*word*(len(dyn)+3)
	dyn = append(dyn, pair{dtStrtab, base + uint64(strAt)}, pair{dtStrsz, uint64(strtab.Len())}, pair{dtNull, 0})
	out := make([]byte, strAt, strAt+strtab.Len())
	out = append(out, strtab.Bytes()...)
	copy(out, "\x7fELF\x02\x01\x01")
	if e.big {
		copy(out, "\x7fELF\x01\x02\x01")
	}
	put := func(at int, v uint64) {
		if word == 8 {
			order.PutUint64(out[at:], v)
		} else {
			order.PutUint32(out[at:], uint32(v))
		}
	}
	order.PutUint16(out[16:], 3)
	order.PutUint16(out[18:], e.machine)
	if e.big {
		put(28, uint64(header))
		order.PutUint16(out[42:], uint16(phdr))
		order.PutUint16(out[44:], 3)
	} else {
		put(32, uint64(header))
		order.PutUint16(out[54:], uint16(phdr))
		order.PutUint16(out[56:], 3)
	}
	segment := func(i int, kind uint32, off, addr, size int) {
		at := header + i*phdr
		order.PutUint32(out[at:], kind)
		if e.big {
			put(at+4, uint64(off))
			put(at+8, uint64(addr))
			put(at+16, uint64(size))
		} else {
			put(at+8, uint64(off))
			put(at+16, uint64(addr))
			put(at+32, uint64(size))
		}
	}
	segment(0, ptLoad, 0, base, len(out))
	segment(1, ptDynamic, dynAt, base+dynAt, strAt-dynAt)
	if e.interp != "" {
		segment(2, ptInterp, interpAt, base+interpAt, len(e.interp)+1)
		copy(out[interpAt:], e.interp)
	}
	for i, p := range dyn {
		put(dynAt+2*word*i, p.tag)
		put(dynAt+2*word*i+word, p.value)
	}
	return out
}

func plant(t *testing.T, files map[string]any) *tree.Tree {
	t.Helper()
	out := tree.New()
	for _, name := range slices.Sorted(keys(files)) {
		must(t, out.MkdirAll(filepath.Dir(name), 0o755))
		switch f := files[name].(type) {
		case elfFile:
			must(t, out.Put(name, tree.File(0o755, tree.Bytes(f.bytes()))))
		case string:
			if target, ok := strings.CutPrefix(f, "-> "); ok {
				must(t, out.Put(name, tree.Symlink(target)))
			} else {
				must(t, out.Put(name, tree.File(0o755, tree.Bytes(f))))
			}
		}
	}
	return out
}

func keys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func names(t *testing.T, tr *tree.Tree) []string {
	t.Helper()
	var out []string
	must(t, tr.Walk(func(name string, n *tree.Node) error {
		if !n.IsDir() {
			out = append(out, name)
		}
		return nil
	}))
	return out
}

const x86, arm = 62, 183

func TestPrune(t *testing.T) {
	lib := "/usr/lib/x86_64-linux-gnu/"
	base := plant(t, map[string]any{
		"/lib": "-> usr/lib", "/bin": "-> usr/bin",
		"/usr/bin/tool":                 elfFile{machine: x86, interp: "/lib/ld.so", needed: []string{"liba.so.1"}, runpath: "$ORIGIN/../lib/tool:/nowhere"},
		"/usr/bin/script":               "#!/usr/bin/awk -f\n",
		"/usr/bin/lost":                 "#! /usr/bin/python3 \n",
		"/usr/bin/awk":                  "-> mawk",
		"/usr/bin/mawk":                 elfFile{machine: x86, interp: "/lib/ld.so", needed: []string{"libm.so.6"}},
		"/usr/bin/other":                elfFile{machine: x86, needed: []string{"libunused.so"}},
		"/usr/lib/ld.so":                elfFile{machine: x86},
		"/usr/lib/tool/liba.so.1":       "-> liba.so.1.2",
		"/usr/lib/tool/liba.so.1.2":     elfFile{machine: x86, needed: []string{"libb.so", "libgone.so"}, rpath: "/opt/b"},
		lib + "libb.so":                 elfFile{machine: arm}, // of another architecture: passed over
		"/opt/b/libb.so":                elfFile{machine: x86, needed: []string{"libdeep.so"}},
		"/opt/b/libdeep.so":             elfFile{machine: x86}, // found by the DT_RPATH of who asked for who asks
		"/usr/local/lib/libm.so.6":      elfFile{machine: x86},
		lib + "libm.so.6":               elfFile{machine: x86},
		lib + "libunused.so":            elfFile{machine: x86},
		"/etc/ld.so.conf":               "include ld.so.conf.d/*.conf\n",
		"/etc/ld.so.conf.d/a.conf":      "# local\n/usr/local/lib\n",
		"/usr/share/doc/tool/copyright": "text",
		"/etc/os-release":               "ID=debian\n",
	})
	got, rep, err := Prune(base, []string{"/bin/tool", "/usr/bin/script", "/usr/bin/lost", "/usr/share/doc/tool/copyright", "/not/there", "/usr"})
	must(t, err)
	want := []string{
		"/bin", "/etc/ld.so.conf", "/etc/ld.so.conf.d/a.conf", "/etc/os-release", "/lib", "/opt/b/libb.so", "/opt/b/libdeep.so",
		"/usr/bin/awk", "/usr/bin/lost", "/usr/bin/mawk", "/usr/bin/script", "/usr/bin/tool", "/usr/lib/ld.so",
		"/usr/lib/tool/liba.so.1", "/usr/lib/tool/liba.so.1.2", "/usr/local/lib/libm.so.6",
	}
	if have := names(t, got); !slices.Equal(have, want) {
		t.Errorf("kept\n%v, want\n%v", have, want)
	}
	if want := []string{"/usr/bin/lost needs /usr/bin/python3", "/usr/lib/tool/liba.so.1.2 needs libgone.so"}; !slices.Equal(rep.Missing, want) {
		t.Errorf("missing %v, want %v", rep.Missing, want)
	}
	if rep.Pruned != 5 {
		t.Errorf("%d files left out", rep.Pruned)
	}
}

// TestCache asks ldconfig to read what we write.
func TestCache(t *testing.T) {
	tooltest.Require(t, "/sbin/ldconfig", "libc-bin")
	base := small(t)
	lib := elfFile{machine: x86, needed: []string{"libc.so.6"}}.bytes()
	for _, name := range []string{"/opt/l/libx.so.2", "/opt/l/libx.so.10", "/opt/l/liba.so", "/opt/m/libx.so.10", "/usr/lib/x86_64-linux-gnu/libsys.so.1"} {
		must(t, base.MkdirAll(filepath.Dir(name), 0o755))
		must(t, base.Put(name, tree.File(0o644, tree.Bytes(lib))))
	}
	must(t, base.Put("/etc/ld.so.conf", tree.File(0o644, tree.Bytes("/opt/l\n/opt/m\n/usr/lib/x86_64-linux-gnu\n"))))
	got, _, err := Build(Recipe{Time: released}, base)
	must(t, err)
	file := filepath.Join(t.TempDir(), "cache")
	must(t, os.WriteFile(file, []byte(text(t, got, "/etc/ld.so.cache")), 0o644))
	out, err := exec.Command("/sbin/ldconfig", "-p", "-C", file).CombinedOutput()
	must(t, err)
	var lines []string
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, "=>") {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	want := []string{
		"libx.so.10 (libc6,x86-64) => /opt/l/libx.so.10", "libx.so.10 (libc6,x86-64) => /opt/m/libx.so.10",
		"libx.so.2 (libc6,x86-64) => /opt/l/libx.so.2", "liba.so (libc6,x86-64) => /opt/l/liba.so",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("ldconfig reads\n%s", out)
	}
}

func TestReadObjectBigEndian32(t *testing.T) {
	b := elfFile{machine: 8, interp: "/lib/ld.so.1", needed: []string{"libc.so.6", "libm.so.6"}, rpath: "/a:/b", big: true}.bytes()
	o, err := readObject(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	if o.interp != "/lib/ld.so.1" || !slices.Equal(o.needed, []string{"libc.so.6", "libm.so.6"}) || !slices.Equal(o.rpath, []string{"/a", "/b"}) {
		t.Errorf("%+v", o)
	}
	for i := range b { // cut anywhere: an error or less, never a panic
		_, _ = readObject(bytes.NewReader(b[:i]), int64(i))
	}
}

func FuzzReadObject(f *testing.F) {
	f.Add(elfFile{machine: x86, interp: "/lib/ld.so", needed: []string{"libc.so.6"}, runpath: "$ORIGIN"}.bytes())
	f.Add(elfFile{machine: 8, needed: []string{"libc.so.6", "a", "b"}, rpath: "/x:/y", big: true}.bytes())
	f.Add([]byte("#!/bin/sh -e\n"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readObject(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			total := len(o.interp)
			for _, s := range slices.Concat(o.needed, o.rpath, o.runpath) {
				total += len(s)
			}
			if total > (maxNeeded+3)*maxELFWord {
				t.Errorf("%d bytes of names out of %d", total, len(b))
			}
		}
		parseInterpreter(b)
	})
}

func FuzzAppletTable(f *testing.F) {
	f.Add([]byte("\x00[\x00[[\x00ash\x00cat\x00mount\x00sh\x00zcat\x00\x00/bin/sh"))
	f.Add([]byte("[\x00ash\x00mount\x00sh"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if names := appletTable(b); names != nil && !slices.IsSorted(names) {
			t.Errorf("%q", names)
		}
	})
}
