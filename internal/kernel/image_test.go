package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// The smallest files of each format, which say that they are kernel 1.2.3.
const fakeBanner = "Linux version 1.2.3 (x) "

func fakeGzip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }

// fakeFlat is an Image of arm64 or riscv64.
func fakeFlat(magic uint32) []byte {
	b := make([]byte, headSize+64)
	put32(b, 16, uint32(len(b)))
	put32(b, arm64MagicAt, magic)
	copy(b[headSize:], fakeBanner)
	return b
}

func fakeBzImage(payload []byte) []byte {
	b := make([]byte, 1024, 1024+len(payload))
	b[0x1f1] = 1
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	put32(b, 0x1f4, uint32(len(payload)/16))
	put32(b, x86MagicAt, x86Magic)
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], "1.2.3 (x)")
	put32(b, 0x24c, uint32(len(payload)))
	b[0x236] = 1
	return append(b, payload...)
}

func fakeZImage(payload []byte) []byte {
	b := make([]byte, 1024, 1024+len(payload))
	put32(b, zimageMagicAt, zimageMagic)
	put32(b, 44, uint32(1024+len(payload)))
	put32(b, 52, 0x45454545)
	put32(b, 56, 512)
	put32(b, 516, 0x5a534c4b)
	put32(b, 520, uint32(1024+len(payload)-4))
	return append(b, payload...)
}

func fakeZBoot(payload []byte) []byte {
	b := make([]byte, 1024, 1024+len(payload))
	copy(b, zbootMagic)
	put32(b, 8, 1024)
	put32(b, 12, uint32(len(payload)))
	copy(b[24:], "gzip")
	return append(b, payload...)
}

func TestFakes(t *testing.T) {
	flat := fakeFlat(arm64Magic)
	for name, c := range map[string]struct {
		b    []byte
		want ImageInfo
		ok   bool
	}{
		"bzImage": {fakeBzImage(fakeGzip(flat)), ImageInfo{Format: BzImage, Arch: "amd64", Release: "1.2.3"}, false},
		"arm64":   {flat, ImageInfo{Format: Image, Arch: "arm64", Release: "1.2.3"}, false},
		"riscv64": {fakeFlat(riscvMagic), ImageInfo{Format: Image, Arch: "riscv64", Release: "1.2.3"}, false},
		"zImage":  {fakeZImage(fakeGzip(flat)), ImageInfo{Format: ZImage, Arch: "armhf", Release: "1.2.3"}, true},
		"zboot":   {fakeZBoot(fakeGzip(flat)), ImageInfo{Format: ZBoot, Arch: "arm64", Release: "1.2.3"}, true},
		"gzip":    {append(fakeGzip(flat), make([]byte, 1024)...), ImageInfo{Format: Image, Arch: "arm64", Release: "1.2.3", Gzip: true}, true},
	} {
		r := bytes.NewReader(c.b)
		if info, err := Identify(r, r.Size()); info != c.want || err != nil {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		if raw, ok, err := Uncompress(r, r.Size()); ok != c.ok || ok && !bytes.HasSuffix(raw, flat) || name != "bzImage" && err != nil {
			t.Errorf("%s: %d bytes, %v, %v", name, len(raw), ok, err)
		}
	}
}

// TestFindRelease: wherever the banner lies in what is read piece by piece.
func TestFindRelease(t *testing.T) {
	for _, at := range []int{0, 1<<20 - 20, 1<<20 - 5, 1 << 20, 2<<20 - 90, 3 << 20} {
		b := append(make([]byte, at), "Linux version %s (%s)\x00Linux version 1.2.3-x (me)"...)
		for _, tail := range []int{0, 10, 2 << 20} {
			if got := findRelease(bytes.NewReader(append(b, make([]byte, tail)...))); got != "1.2.3-x" {
				t.Errorf("at %d, with %d more: %q", at, tail, got)
			}
		}
	}
}

// TestLZ4: as the kernel's build packs, with the reference tool.
func TestLZ4(t *testing.T) {
	lz4 := tooltest.Require(t, "lz4", "lz4")
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for name, b := range map[string][]byte{
		"nothing": {}, "letter": []byte("x"), "zeros": make([]byte, 9<<20), "noise": noise,
		"text": []byte(strings.Repeat("the quick brown fox ", 1<<19)), "both": slices.Concat(noise, make([]byte, 300), noise),
	} {
		cmd := exec.Command(lz4, "-l", "-9", "-c")
		cmd.Stdin = bytes.NewReader(b)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpackLZ4(bytes.NewReader(packed), 64<<20); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(b), err)
		}
		if _, err := unpackLZ4(bytes.NewReader(packed), int64(len(b))-1); err == nil && len(b) > 0 {
			t.Errorf("%s: more than the limit", name)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	flat := fakeFlat(arm64Magic)
	for _, b := range [][]byte{flat, fakeBzImage(fakeGzip(flat)), fakeZImage(fakeGzip(flat)), fakeZBoot(fakeGzip(flat)), fakeGzip(flat)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		info, err := Identify(r, r.Size())
		if err == nil && (info.Arch == "" || info.Format == "" || len(info.Release) > maxRelease) {
			t.Errorf("%+v", info)
		}
		if _, ok, uerr := Uncompress(r, r.Size()); ok && (err != nil || uerr != nil) {
			t.Errorf("what can't be recognised (%v) was unpacked, %v", err, uerr)
		}
	})
}

func FuzzLZ4(f *testing.F) {
	f.Add([]byte("\x02\x21\x4c\x18\x06\x00\x00\x00\x50hello"))
	f.Add([]byte("\x02\x21\x4c\x18\x0b\x00\x00\x00\x1fa\x01\x00\x0a\x50aaaaa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := unpackLZ4(bytes.NewReader(b), 1<<20); err == nil && len(out) > 1<<20 {
			t.Errorf("%d bytes", len(out))
		}
	})
}

// FuzzLists reads the lists of modules that come with a kernel, and writes
// what depmod would.
func FuzzLists(f *testing.F) {
	f.Add("kernel/fs/ext4/ext4.ko\n", "alias fs-* m\nalias x m\n", "softdep m pre: x post: crypto-y\n", []byte("ext4.alias=fs-ext4\x00"), "m x fs-ext4")
	f.Add("", "alias a b\nalias b a\n", "softdep m pre: m\n", []byte(nil), "a b")
	f.Fuzz(func(t *testing.T, builtin, alias, softdep string, info []byte, wanted string) {
		k := &Kernel{Release: "1", Modules: tree.New()}
		for name, b := range map[string][]byte{
			"modules.builtin": []byte(builtin), "modules.alias": []byte(alias), "modules.softdep": []byte(softdep),
			"modules.builtin.modinfo": info, "m.ko": relocatable(), "a.ko": relocatable(), "modules.order": []byte(alias),
		} {
			if err := k.Modules.Put("/"+name, tree.File(0o644, tree.Bytes(b))); err != nil {
				t.Fatal(err)
			}
		}
		mods, err := k.Closure(strings.Fields(wanted), "m")
		if err == nil && len(mods) > 2 {
			t.Errorf("%d modules", len(mods))
		}
		x, err := k.Index()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Files([]byte(builtin), info); err != nil && !strings.Contains(err.Error(), "circle") {
			t.Error(err)
		}
	})
}
