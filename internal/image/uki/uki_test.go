package uki_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"io"
	"os/exec"
	"strings"
	"testing"

	"wolffia/internal/image/boottest"
	"wolffia/internal/image/uki"
	"wolffia/internal/tooltest"
	"wolffia/internal/tree"
)

// program is a small UEFI program of two sections for a machine, with room for
// more section headers up to byte 1024 and a signature at its end.
func program(machine uint16) []byte {
	le := binary.LittleEndian
	b := make([]byte, 1024)
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	le.PutUint16(b[68:], machine)
	le.PutUint16(b[70:], 2)   // sections
	le.PutUint16(b[84:], 240) // the optional header's size
	opt := b[88:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], 4096)
	le.PutUint32(opt[36:], 512)
	le.PutUint32(opt[56:], 3*4096)
	le.PutUint32(opt[60:], 1024)
	le.PutUint32(opt[64:], 0xdecade) // checksum
	le.PutUint16(opt[68:], 10)
	le.PutUint32(opt[108:], 16)   // directories
	le.PutUint32(opt[144:], 2048) // the signature
	le.PutUint32(opt[148:], 8)
	for i, name := range []string{".text", ".sdmagic"} {
		s := b[328+40*i:]
		copy(s[:8], name)
		le.PutUint32(s[8:], 300)
		le.PutUint32(s[12:], uint32(4096*(i+1)))
		le.PutUint32(s[16:], 512)
		le.PutUint32(s[20:], uint32(1024+512*i))
	}
	return append(append(b, bytes.Repeat([]byte{0x90}, 1024)...), "sign me!"...)
}

// options are good ones for amd64, without any package.
func options() uki.Options {
	return uki.Options{
		Stub: program(0x8664), Kernel: tree.Bytes(program(0x8664)), Cmdline: "quiet", Uname: "6.1.0-x", OSRelease: "ID=x\n",
		Initrd: []tree.Content{tree.Bytes("one"), tree.Bytes("three"), tree.Bytes("")},
	}
}

func write(t testing.TB, o uki.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, uki.Write(&b, o))
	return b.Bytes()
}

// check holds an image against the rules of PE, by the standard library's eyes,
// and gives its sections' data.
func check(t testing.TB, image []byte) map[string]string {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(image))
	must(t, err)
	var sectionAlign, fileAlign, imageSize, headers, sum uint32
	switch o := f.OptionalHeader.(type) {
	case *pe.OptionalHeader64:
		sectionAlign, fileAlign, imageSize, headers, sum = o.SectionAlignment, o.FileAlignment, o.SizeOfImage, o.SizeOfHeaders, o.CheckSum
	case *pe.OptionalHeader32:
		sectionAlign, fileAlign, imageSize, headers, sum = o.SectionAlignment, o.FileAlignment, o.SizeOfImage, o.SizeOfHeaders, o.CheckSum
	}
	if sum != 0 || imageSize%sectionAlign != 0 || len(image)%int(fileAlign) != 0 {
		t.Errorf("checksum %#x, image of %#x in memory, %#x in the file", sum, imageSize, len(image))
	}
	sections := map[string]string{}
	added := false
	addr, off := uint32(0), headers
	for _, s := range f.Sections {
		b, err := s.Data()
		must(t, err)
		sections[s.Name] = string(b[:min(len(b), int(s.VirtualSize))])
		if added = added || s.Name == ".osrel"; !added {
			addr, off = max(addr, s.VirtualAddress+s.VirtualSize), max(off, s.Offset+s.Size)
			continue // systemd 252's own sections lie closer than they should
		}
		if s.VirtualAddress < addr || s.VirtualAddress%sectionAlign != 0 || s.VirtualAddress%4096 != 0 {
			t.Errorf("%s lies at %#x, after %#x", s.Name, s.VirtualAddress, addr)
		}
		if s.Offset < off || s.Offset%fileAlign != 0 || s.Size%fileAlign != 0 || s.Size < s.VirtualSize {
			t.Errorf("%s lies at byte %#x, of %#x, after %#x", s.Name, s.Offset, s.Size, off)
		}
		addr, off = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
	}
	if addr > imageSize || int(off) != len(image) {
		t.Errorf("sections end at %#x of %#x and byte %#x of %#x", addr, imageSize, off, len(image))
	}
	return sections
}

func TestWrite(t *testing.T) {
	o := options()
	image := write(t, o)
	if !bytes.Equal(image, write(t, o)) {
		t.Error("written twice, it differs")
	}
	kernel := string(program(0x8664))
	got := check(t, image)
	for name, want := range map[string]string{
		".osrel": "ID=x\n", ".cmdline": "quiet", ".uname": "6.1.0-x", ".initrd": "one\x00three\x00\x00\x00", ".linux": kernel,
		".text": strings.Repeat("\x90", 300),
	} {
		if got[name] != want {
			t.Errorf("%s holds %.60q", name, got[name])
		}
	}
	if bytes.Contains(image[:len(image)-len(kernel)-512], []byte("sign me!")) {
		t.Error("the stub's signature is still there")
	}
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	must(t, err)
	if f.Arch != "amd64" || !f.Unified() || len(f.Sections) != 7 {
		t.Errorf("read %+v", f)
	}
	b, err := io.ReadAll(f.Section(".linux"))
	if err != nil || string(b) != kernel {
		t.Errorf("kernel of %d bytes, %v", len(b), err)
	}
	if text, err := f.Text(".uname"); text != "6.1.0-x" || err != nil {
		t.Errorf("uname %q, %v", text, err)
	}
	if text, err := f.Text(".nothing"); text != "" || err != nil {
		t.Errorf("%q, %v", text, err)
	}

	only := check(t, write(t, uki.Options{Stub: o.Stub, Kernel: o.Kernel, OSRelease: "x"}))
	if len(only) != 4 {
		t.Errorf("sections %v", only)
	}
}

// The content can be read many times, in small pieces and not to its end.
func TestContent(t *testing.T) {
	c, err := uki.New(options())
	must(t, err)
	want := write(t, options())
	if c.Size() != int64(len(want)) {
		t.Errorf("size %d, not %d", c.Size(), len(want))
	}
	for range 2 {
		r, err := c.Open()
		must(t, err)
		got, err := io.ReadAll(&sevens{r})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		must(t, r.Close())
		r, err = c.Open()
		must(t, err)
		_, err = io.ReadFull(r, make([]byte, len(want)-700))
		must(t, err)
		must(t, r.Close())
	}
}

// sevens reads seven bytes at a time.
type sevens struct{ r io.Reader }

func (s *sevens) Read(p []byte) (int, error) { return s.r.Read(p[:min(7, len(p))]) }

// All of Debian's stubs can be used but one, and objdump sees what we mean.
func TestStubs(t *testing.T) {
	objdump := tooltest.Require(t, "objdump", "binutils")
	for suite, archs := range map[string]string{"bookworm": "amd64 i386 arm64 armhf", "trixie": "amd64 i386 arm64 armhf riscv64"} {
		for arch := range strings.FieldsSeq(archs) {
			s := stub(t, suite, arch)
			var b bytes.Buffer
			err := uki.Write(&b, uki.Options{Stub: s, Kernel: tree.Bytes(s), Cmdline: "x", Initrd: []tree.Content{tree.Bytes("i")}, OSRelease: "y", Uname: "z"})
			if suite == "bookworm" && arch == "armhf" {
				if err == nil || !strings.Contains(err.Error(), "no room for 5 more section headers") {
					t.Errorf("%s %s: %v", suite, arch, err)
				}
				continue
			}
			must(t, err)
			if arch != "armhf" { // which the standard library doesn't know
				if got := check(t, b.Bytes()); got[".linux"] != string(s) || got[".cmdline"] != "x" {
					t.Errorf("%s %s: %d bytes of kernel, cmdline %q", suite, arch, len(got[".linux"]), got[".cmdline"])
				}
			}
			f, err := uki.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
			if err != nil || f.Arch != arch || !f.Unified() {
				t.Errorf("%s %s: %+v, %v", suite, arch, f, err)
			}
			if arch == "amd64" {
				out, err := exec.Command(objdump, "-h", boottest.File(t, "x", tree.Bytes(b.Bytes()))).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "pei-x86-64") || !strings.Contains(string(out), ".linux") {
					t.Errorf("objdump: %v\n%s", err, out)
				}
			}
		}
	}
}

func TestTargets(t *testing.T) {
	at, err := uki.For("arm64")
	want := uki.Target{Arch: "arm64", Package: "systemd-boot-efi", Stub: "/usr/lib/systemd/boot/efi/linuxaa64.efi.stub", Boot: "/EFI/BOOT/BOOTAA64.EFI"}
	if at != want || err != nil {
		t.Errorf("%+v, %v", at, err)
	}
	if _, err := uki.For("amd46"); err == nil || !strings.Contains(err.Error(), "did you mean amd64?") {
		t.Errorf("unknown architecture: %v", err)
	}
}
