package grub_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/ulikunitz/xz/lzma"

	"wolffia/internal/image/boottest"
	"wolffia/internal/image/grub"
	"wolffia/internal/tree"
)

func pkg(t testing.TB, suite string) *tree.Tree {
	t.Helper()
	return boottest.Package(t, suite, "amd64", grub.Package, grub.Needless[:]...)
}

// object is a part of the core image behind the kernel.
type object struct {
	kind uint32
	data []byte
}

// unpack takes a core image apart as diskboot, the decompressor and the kernel
// would, and gives the kernel and the objects.
func unpack(t *testing.T, core []byte, decompressor int) (kernel []byte, objects []object) {
	t.Helper()
	le := binary.LittleEndian
	d := core[512:]
	packed, size := int(le.Uint32(d[8:])), int(le.Uint32(d[12:]))
	if end := decompressor + packed; end > len(d) || len(d)-end >= 512 {
		t.Fatalf("%d bytes compressed behind %d, in %d", packed, decompressor, len(d))
	}
	header := le.AppendUint64([]byte{3 + 9*(0+5*2), 0, 0, 0x40, 0}, uint64(size))
	r, err := lzma.NewReader(bytes.NewReader(append(header, d[decompressor:][:packed]...)))
	must(t, err)
	b, err := io.ReadAll(r)
	must(t, err)
	if len(b) != size {
		t.Fatalf("%d bytes, not %d", len(b), size)
	}
	at := bytes.Index(b, []byte("mimg\x0c\x00\x00\x00"))
	if at < 0 || int(le.Uint32(b[at+8:])) != len(b)-at {
		t.Fatalf("module header at %d of %d", at, len(b))
	}
	kernel = b[:at]
	for b = b[at+12:]; len(b) > 0; {
		n := int(le.Uint32(b[4:]))
		objects = append(objects, object{le.Uint32(b), b[8:n]})
		b = b[n:]
	}
	return kernel, objects
}

func TestCore(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) { testCore(t, pkg(t, suite)) })
	}
}

func testCore(t *testing.T, p *tree.Tree) {
	o := grub.Options{UUID: "1234-ABCD", Modules: []string{"sleep", "ext2"}, Config: "echo hello"}
	l, err := grub.New(p, o)
	must(t, err)
	const sector = 0x123456789
	core, boot := l.Core(sector), l.BootCode(sector)
	again, err := grub.New(p, o)
	must(t, err)
	if !bytes.Equal(again.Core(sector), core) || !bytes.Equal(again.BootCode(sector), boot) {
		t.Error("assembled twice, it differs")
	}
	if bytes.Equal(l.Core(1), core) || !bytes.Equal(l.Core(1)[512:], core[512:]) {
		t.Error("the place changes something else than the first sector, or nothing")
	}
	if l.Size() != int64(len(core)) || l.Size()%512 != 0 || l.Size() > 250<<10 {
		t.Errorf("size %d of %d bytes", l.Size(), len(core))
	}
	le := binary.LittleEndian
	if len(boot) != grub.BootCodeSize || le.Uint64(boot[0x5c:]) != sector || boot[0x64] != 0xff || boot[0x66] != 0x90 || boot[0x67] != 0x90 {
		t.Errorf("boot code %x", boot[0x5c:0x68])
	}
	if le.Uint64(core[500:]) != sector+1 || int(le.Uint16(core[508:])) != len(core)/512-1 || le.Uint16(core[510:]) != 0x820 {
		t.Errorf("block list %x", core[500:512])
	}

	decompressor, err := p.ReadFile(grub.Dir+"/lzma_decompress.img", 1<<20)
	must(t, err)
	kernel, objects := unpack(t, core, len(decompressor))
	if want := segment(t, p); !bytes.Equal(kernel, want) {
		t.Errorf("kernel of %d bytes, not %d", len(kernel), len(want))
	}
	want := map[uint32]string{
		2: "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\necho hello\nsearch.fs_uuid 1234-ABCD root\nset prefix=($root)/boot/grub\n\x00",
		3: "/boot/grub\x00",
	}
	modules := 0
	for _, o := range objects {
		if o.kind == 0 {
			f, err := elf.NewFile(bytes.NewReader(o.data))
			if err != nil || f.Section(".modname") == nil {
				t.Fatalf("object %d is no module: %v", modules, err)
			}
			modules++
			continue
		}
		if text := want[o.kind]; strings.TrimRight(text, "\x00") != string(bytes.TrimRight(o.data, "\x00")) || len(o.data) < len(text) {
			t.Errorf("object of kind %d: %q", o.kind, o.data)
		}
	}
	if modules < 25 || modules+2 != len(objects) {
		t.Errorf("%d modules of %d objects", modules, len(objects))
	}
}

// segment is what kernel.img loads, by its sections.
func segment(t *testing.T, p *tree.Tree) []byte {
	t.Helper()
	b, err := p.ReadFile(grub.Dir+"/kernel.img", 1<<20)
	must(t, err)
	f, err := elf.NewFile(bytes.NewReader(b))
	must(t, err)
	var out []byte
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Type == elf.SHT_NOBITS {
			continue
		}
		data, err := s.Data()
		must(t, err)
		out = append(out, make([]byte, int(s.Addr)-0x9000-len(out))...)
		out = append(out, data...)
	}
	return out
}

func TestOptions(t *testing.T) {
	p := pkg(t, "bookworm")
	for _, c := range []struct {
		o    grub.Options
		want string
	}{
		{grub.Options{Partition: "gpt1", UUID: "1"}, "more than one of Partition, UUID and Label"},
		{grub.Options{Partition: "gpt1)/x("}, "is not such as gpt1 or msdos1"},
		{grub.Options{UUID: "1; reboot"}, "other characters than letters"},
		{grub.Options{Label: "a\"b"}, "other characters than letters"},
		{grub.Options{Label: "a$b"}, "other characters than letters"},
		{grub.Options{Config: "a\x00b"}, "NUL"},
		{grub.Options{Config: strings.Repeat("x", 65537)}, "more than the limit"},
		{grub.Options{Modules: []string{"etx2"}}, `no module "etx2" (did you mean ext2?)`},
		{grub.Options{Modules: []string{"../../x"}}, `no module "../../x"`},
		{grub.Options{Modules: all(t, p)}, "use fewer modules"},
	} {
		if _, err := grub.New(p, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: error %v, not %q", c.o, err, c.want)
		}
	}
}

// all are the names of all modules.
func all(t *testing.T, p *tree.Tree) (names []string) {
	t.Helper()
	dir, err := p.Lookup(grub.Dir)
	must(t, err)
	for _, name := range dir.Names() {
		if m, ok := strings.CutSuffix(name, ".mod"); ok {
			names = append(names, m)
		}
	}
	return names
}

// A damaged package is an error that names the file.
func TestDamaged(t *testing.T) {
	good := pkg(t, "trixie")
	for _, name := range []string{"boot.img", "diskboot.img", "kernel.img", "lzma_decompress.img", "moddep.lst", "normal.mod"} {
		b, err := good.ReadFile(grub.Dir+"/"+name, 1<<20)
		must(t, err)
		for what, content := range map[string]tree.Content{
			"missing": nil, "empty": tree.Bytes(""), "cut off": tree.Bytes(b[:len(b)/3]), "zeros": tree.Bytes(make([]byte, len(b))),
			"too large": tree.Bytes(append(bytes.Clone(b), make([]byte, 2<<20)...)),
		} {
			if name == "moddep.lst" && what == "cut off" || name == "normal.mod" && what == "cut off" {
				continue // see below; and GRUB itself checks what a module holds
			}
			p := tree.New()
			must(t, p.Merge(good))
			p.Remove(grub.Dir + "/" + name)
			if content != nil {
				must(t, p.Put(grub.Dir+"/"+name, tree.File(0o644, content)))
			}
			if _, err := grub.New(p, grub.Options{}); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
	}
	for text, want := range map[string]string{
		"a: b\nb: a\n":             "the package has no module",
		"biosdisk: gone":           `module biosdisk needs "gone", which the package does not have`,
		"biosdisk: a\na: biosdisk": "modules biosdisk and a need each other",
		"no colon":                 "line 1",
	} {
		p := tree.New()
		must(t, p.Merge(good))
		must(t, p.Put(grub.Dir+"/moddep.lst", tree.File(0o644, tree.Bytes(text))))
		if _, err := grub.New(p, grub.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, not %q", text, err, want)
		}
	}
	if _, err := grub.New(tree.New(), grub.Options{}); err == nil || !strings.Contains(err.Error(), "boot.img") {
		t.Errorf("an empty package: %v", err)
	}
}
