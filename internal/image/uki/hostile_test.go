package uki_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"wolffia/internal/image/uki"
	"wolffia/internal/tree"
)

// promise is a content that says it has more than it gives.
type promise struct {
	tree.Content
	size int64
}

func (p promise) Size() int64 { return p.size }

// broken can't be opened.
type broken struct{ tree.Content }

var errBroken = errors.New("no such luck")

func (broken) Open() (io.ReadCloser, error) { return nil, errBroken }

func TestRefused(t *testing.T) {
	le := binary.LittleEndian
	stub := func(change func(b []byte)) func(o *uki.Options) {
		return func(o *uki.Options) { change(o.Stub) }
	}
	for _, c := range []struct {
		name   string
		change func(o *uki.Options)
		want   string
	}{
		{"no stub", func(o *uki.Options) { o.Stub = nil }, "stub: not a PE file: no MZ magic"},
		{"large stub", func(o *uki.Options) { o.Stub = make([]byte, uki.MaxStub+1) }, "stub: 16777217 bytes are more than"},
		{"no PE magic", stub(func(b []byte) { b[64] = 0 }), "no PE magic"},
		{"PE header far away", stub(func(b []byte) { le.PutUint32(b[60:], 1<<31) }), "no PE magic"},
		{"no sections", stub(func(b []byte) { b[70] = 0 }), "0 sections"},
		{"many sections", stub(func(b []byte) { b[71] = 1 }), "258 sections"},
		{"sections beyond the end", stub(func(b []byte) { b[70] = 90 }), "cut off"},
		{"short optional header", stub(func(b []byte) { b[84] = 60 }), "too short"},
		{"unknown magic", stub(func(b []byte) { b[88] = 7 }), "neither PE32's nor PE32+'s"},
		{"odd alignment", stub(func(b []byte) { b[88+36] = 3 }), "not a power of two"},
		{"no UEFI program", stub(func(b []byte) { b[88+68] = 3 }), "subsystem 3"},
		{"section beyond the end", stub(func(b []byte) { b[328+18] = 1 }), `".text" ends at byte 67072 of a file of 2056`},
		{"section beyond memory", stub(func(b []byte) { b[328+15] = 0x7f; b[328+11] = 1 }), "2 GiB"},
		{"image beyond memory", stub(func(b []byte) { b[88+59] = 0xff }), "larger than 2 GiB"},
		{"signature inside", stub(func(b []byte) { le.PutUint32(b[88+144:], 1030) }), "signature at byte 1030"},
		{"signature outside", stub(func(b []byte) { le.PutUint32(b[88+144:], 1<<20) }), "signature at byte 1048576"},
		{"no room", stub(func(b []byte) { le.PutUint32(b[88+60:], 500) }), "no room for 5 more section headers before byte 500"},
		{"a whole image", func(o *uki.Options) { o.Stub = write(t, *o) }, "holds a kernel already"},
		{"no kernel", func(o *uki.Options) { o.Kernel = nil }, "no kernel given"},
		{"empty kernel", func(o *uki.Options) { o.Kernel = tree.Bytes("") }, "CONFIG_EFI_STUB"},
		{"ELF kernel", func(o *uki.Options) { o.Kernel = tree.Bytes("\x7fELF" + strings.Repeat("x", 100)) }, "CONFIG_EFI_STUB"},
		{"kernel in gzip", func(o *uki.Options) { o.Kernel = tree.Bytes("\x1f\x8b\x08rest") }, "compressed with gzip"},
		{"kernel in zstd", func(o *uki.Options) { o.Kernel = tree.Bytes("\x28\xb5\x2f\xfdrest") }, "compressed with zstd"},
		{"kernel of another architecture", func(o *uki.Options) { o.Kernel = tree.Bytes(program(0xaa64)) }, "it is for arm64, and the stub for amd64"},
		{"kernel of no known architecture", func(o *uki.Options) { o.Kernel = tree.Bytes(program(0x6264)) }, "it is for machine 0x6264"},
		{"kernel that can't be read", func(o *uki.Options) { o.Kernel = broken{o.Kernel} }, errBroken.Error()},
		{"kernel that is cut off", func(o *uki.Options) { o.Kernel = promise{tree.Bytes(program(0x8664)), 4096} }, "unexpected EOF"},
		{"two lines", func(o *uki.Options) { o.Cmdline = "a\nb" }, "section .cmdline: the text has several lines"},
		{"NUL", func(o *uki.Options) { o.OSRelease = "a\x00b" }, "section .osrel: the text holds a NUL"},
		{"long text", func(o *uki.Options) { o.Uname = strings.Repeat("x", 65537) }, "section .uname: 65537 bytes"},
		{"large initrd", func(o *uki.Options) { o.Initrd = []tree.Content{promise{tree.Bytes(""), 1 << 31}} }, "larger than 2 GiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options()
			c.change(&o)
			if _, err := uki.New(o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, not %q", err, c.want)
			}
		})
	}
}

// What fails only while it is written says so.
func TestFailures(t *testing.T) {
	o := options()
	o.Initrd = []tree.Content{broken{tree.Bytes("x")}}
	if err := uki.Write(io.Discard, o); !errors.Is(err, errBroken) {
		t.Errorf("initrd that can't be opened: %v", err)
	}
	o.Initrd = []tree.Content{promise{tree.Bytes("short"), 10}}
	if err := uki.Write(io.Discard, o); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("initrd that is cut off: %v", err)
	}
	if _, err := uki.Open(bytes.NewReader([]byte("MZ")), 70); err == nil {
		t.Error("a file that is shorter than said is read")
	}
	f, err := uki.Open(bytes.NewReader(program(0x8664)), 2056)
	if err != nil || f.Unified() || f.Section(".linux") != nil {
		t.Errorf("a plain program: %+v, %v", f, err)
	}
}

// Whatever stub is taken, what comes out is an image with our sections in it.
func FuzzStub(f *testing.F) {
	f.Fuzz(func(t *testing.T, stub []byte) {
		r, err := uki.Open(bytes.NewReader(stub), int64(len(stub)))
		if err == nil {
			for _, s := range r.Sections {
				if s.Offset < 0 || s.Size < 0 || s.Size > int64(len(stub)) {
					t.Fatalf("section %+v of %d bytes", s, len(stub))
				}
			}
		}
		kernel := program(0x8664)
		c, err := uki.New(uki.Options{Stub: stub, Kernel: tree.Bytes(kernel), Cmdline: "quiet"})
		if err != nil || c.Size() > 16<<20 {
			return
		}
		var b bytes.Buffer
		must(t, uki.Write(&b, uki.Options{Stub: stub, Kernel: tree.Bytes(kernel), Cmdline: "quiet"}))
		image, err := uki.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		must(t, err)
		got, err := io.ReadAll(image.Section(".linux"))
		if err != nil || !bytes.Equal(got, kernel) {
			t.Fatalf("kernel of %d bytes, %v", len(got), err)
		}
	})
}
