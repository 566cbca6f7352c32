package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Format is how a kernel is packed for whoever starts it.
type Format string

// The formats that [Identify] knows.
const (
	BzImage Format = "bzImage" // x86, unpacks itself (Linux/x86 boot protocol 2.00 on)
	Image   Format = "Image"   // arm64 and riscv64, plain
	ZImage  Format = "zImage"  // 32-bit arm, unpacks itself
	ZBoot   Format = "zboot"   // arm64 and riscv64, an EFI program that unpacks itself
	Vmlinux Format = "vmlinux" // an ELF file that a boot loader or QEMU starts
	UML     Format = "uml"     // user-mode-linux: an ELF program of the host
)

// ImageInfo is what a kernel's first bytes say of it.
type ImageInfo struct {
	Format  Format
	Arch    string // Debian's name: "amd64", "i386", "arm64", "armhf", "riscv64"
	Release string // as uname -r prints it; "" when only running it would tell
	Gzip    bool   // the whole file is compressed with gzip
	// PVH says that an ELF file starts by the PVH protocol (x86/HVM direct boot
	// ABI), which is how QEMU boots one on x86.
	PVH bool
}

const (
	maxKernel = 512 << 20 // bytes of a kernel, unpacked
	headSize  = 1024      // bytes that hold the headers of all formats but ELF
)

// NotKernelError says that a file can't be booted.
type NotKernelError struct {
	Why string
}

func (e *NotKernelError) Error() string { return "not a Linux kernel: " + e.Why }

// Fix says what to give instead.
func (e *NotKernelError) Fix() string {
	return "give a bzImage, Image, zImage, vmlinux or user-mode-linux that is whole, or the folder that a kernel was built in"
}

// Magic numbers of the formats and where they stand.
const (
	x86Magic, x86MagicAt     = 0x53726448, 0x202 // "HdrS", Documentation/arch/x86/boot.rst
	arm64Magic, arm64MagicAt = 0x644d5241, 56    // "ARM\x64", Documentation/arch/arm64/booting.rst
	riscvMagic, riscvMagicAt = 0x05435352, 56    // "RSC\x05", Documentation/arch/riscv/boot-image-header.rst
	zimageMagic              = 0x016f2818        // arch/arm/boot/compressed/head.S
	zimageMagicAt            = 36
	zbootMagic               = "MZ\x00\x00zimg" // drivers/firmware/efi/libstub/zboot-header.S
)

// Identify finds out what kernel is in the size bytes of r, by its content. A
// file that is no kernel, or one cut short, is a *[NotKernelError].
func Identify(r io.ReaderAt, size int64) (ImageInfo, error) {
	var head [headSize]byte
	n, err := io.ReadFull(io.NewSectionReader(r, 0, size), head[:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return ImageInfo{}, fmt.Errorf("read kernel: %w", err)
	}
	if n < len(head) {
		return ImageInfo{}, &NotKernelError{Why: fmt.Sprintf("it has only %d bytes", size)}
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(head[at:]) }
	switch {
	case bytes.HasPrefix(head[:], []byte(elf.ELFMAG)):
		return identifyELF(r, size)
	case u32(x86MagicAt) == x86Magic:
		return identifyBzImage(head[:], r, size)
	case bytes.HasPrefix(head[:], []byte(zbootMagic)):
		return identifyZBoot(head[:], r, size)
	case u32(arm64MagicAt) == arm64Magic:
		return identifyFlat("arm64", head[:], r, size)
	case u32(riscvMagicAt) == riscvMagic:
		return identifyFlat("riscv64", head[:], r, size)
	case u32(zimageMagicAt) == zimageMagic:
		return identifyZImage(head[:], r, size)
	case bytes.HasPrefix(head[:], gzipMagic):
		return identifyGzip(r, size)
	}
	return ImageInfo{}, &NotKernelError{Why: guess(head[:])}
}

var gzipMagic = []byte{0x1f, 0x8b}

// guess says what a file that is no kernel may be, where that helps.
func guess(head []byte) string {
	for magic, what := range map[string]string{
		"\xfd7zXZ\x00":     "it is an xz file; unpack it first",
		"\x28\xb5\x2f\xfd": "it is a zstd file; unpack it first",
		"070701":           "it is a cpio archive, perhaps an initramfs",
		"!<arch>\n":        "it is a .deb or another ar archive; unpack it first",
		"QFI\xfb":          "it is a qcow2 disk image",
		"\x27\x05\x19\x56": "it is a U-Boot uImage; give the Image or zImage that it was made from",
		"MZ":               "it is an EFI program or an image of an architecture that is not known here",
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return what
		}
	}
	return "it begins like no kernel format that is known here (bzImage, Image, zImage, vmlinux)"
}

// identifyBzImage reads the setup header of the x86 boot protocol.
func identifyBzImage(head []byte, r io.ReaderAt, size int64) (ImageInfo, error) {
	info := ImageInfo{Format: BzImage, Arch: "i386"}
	h, err := readSetup(head, size)
	if err != nil {
		return info, err
	}
	if h.xloadflags&1 != 0 { // XLF_KERNEL_64
		info.Arch = "amd64"
	}
	if h.version > 0 {
		var text [256]byte
		n, _ := io.ReadFull(io.NewSectionReader(r, h.version, min(int64(len(text)), size-h.version)), text[:])
		info.Release = firstWord(text[:n])
	}
	return info, nil
}

// setup is what is used of the x86 setup header.
type setup struct {
	protocol, xloadflags uint16
	version              int64 // offset in the file of the version text, or 0
	payload, length      int64 // the compressed kernel in the file
}

// readSetup reads struct setup_header, which begins at 0x1f1.
func readSetup(head []byte, size int64) (h setup, err error) {
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(head[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(head[at:])) }
	if u16(0x1fe) != 0xaa55 {
		return h, &NotKernelError{Why: "its boot sector has no signature"}
	}
	sectors := int64(head[0x1f1])
	if sectors == 0 {
		sectors = 4 // of the first protocols
	}
	code := (sectors + 1) * 512
	need := code + u32(0x1f4)*16 // syssize, in paragraphs
	if size < need-15 || size <= code {
		return h, &NotKernelError{Why: fmt.Sprintf("the bzImage has %d bytes and should have %d: it is cut short", size, need)}
	}
	h.protocol = uint16(u16(0x206))
	if v := u16(0x20e); v != 0 && v+0x200 < code {
		h.version = v + 0x200
	}
	if h.protocol >= 0x208 {
		h.payload, h.length = code+u32(0x248), u32(0x24c)
		if h.payload+h.length > size {
			return h, &NotKernelError{Why: "the compressed kernel in the bzImage ends after the file"}
		}
	}
	if h.protocol >= 0x20c {
		h.xloadflags = uint16(u16(0x236))
	}
	return h, nil
}

// identifyFlat reads the header that arm64 and riscv64 share in its layout.
func identifyFlat(arch string, head []byte, r io.ReaderAt, size int64) (ImageInfo, error) {
	// image_size counts the BSS, which is not in the file; half of it at least is.
	want := binary.LittleEndian.Uint64(head[16:])
	if want > maxKernel || uint64(size) < want/2 {
		return ImageInfo{}, &NotKernelError{Why: fmt.Sprintf("the Image has %d bytes and its header speaks of %d: it is cut short or damaged", size, want)}
	}
	return ImageInfo{Format: Image, Arch: arch, Release: findRelease(io.NewSectionReader(r, 0, size))}, nil
}

func identifyZImage(head []byte, r io.ReaderAt, size int64) (ImageInfo, error) {
	start, end := binary.LittleEndian.Uint32(head[40:]), binary.LittleEndian.Uint32(head[44:])
	if int64(end)-int64(start) > size || end < start {
		return ImageInfo{}, &NotKernelError{Why: fmt.Sprintf("the zImage has %d bytes and its header speaks of %d: it is cut short", size, int64(end)-int64(start))}
	}
	info := ImageInfo{Format: ZImage, Arch: "armhf"}
	if raw, err := zImagePayload(head, r, size); err == nil {
		info.Release = findRelease(bytes.NewReader(raw))
	}
	return info, nil
}

func identifyZBoot(head []byte, r io.ReaderAt, size int64) (ImageInfo, error) {
	raw, err := unpackZBoot(head, r, size)
	if err != nil {
		return ImageInfo{}, err
	}
	info, err := Identify(bytes.NewReader(raw), int64(len(raw)))
	if err == nil && info.Format != Image {
		err = &NotKernelError{Why: fmt.Sprintf("the EFI zboot image holds a %s", info.Format)}
	}
	info.Format = ZBoot
	return info, err
}

func identifyGzip(r io.ReaderAt, size int64) (ImageInfo, error) {
	raw, err := decompress(io.NewSectionReader(r, 0, size), size, maxKernel)
	if err != nil {
		return ImageInfo{}, &NotKernelError{Why: "it is a gzip file that can't be unpacked: " + err.Error()}
	}
	if bytes.HasPrefix(raw, gzipMagic) {
		return ImageInfo{}, &NotKernelError{Why: "it is a gzip file in a gzip file"}
	}
	info, err := Identify(bytes.NewReader(raw), int64(len(raw)))
	info.Gzip = true
	return info, err
}

// elfArchs are the architectures of ELF kernels.
var elfArchs = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_386: "i386", elf.EM_AARCH64: "arm64", elf.EM_ARM: "armhf", elf.EM_RISCV: "riscv64",
}

func identifyELF(r io.ReaderAt, size int64) (ImageInfo, error) {
	damaged := func(why string) (ImageInfo, error) {
		return ImageInfo{}, &NotKernelError{Why: "the ELF file is damaged: " + why}
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return damaged(err.Error())
	}
	info := ImageInfo{Format: Vmlinux, Arch: elfArchs[f.Machine]}
	if info.Arch == "" {
		return info, &NotKernelError{Why: fmt.Sprintf("it is an ELF file for %s, which wolffia does not run", strings.TrimPrefix(f.Machine.String(), "EM_"))}
	}
	if f.Type == elf.ET_REL {
		return info, &NotKernelError{Why: "it is an object file, such as a kernel module"}
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && (p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off) {
			return damaged("it is cut short")
		}
		if p.Type == elf.PT_NOTE && f.Machine != elf.EM_AARCH64 {
			info.PVH = info.PVH || hasPVHNote(p, f.ByteOrder)
		}
	}
	if isUML(f) {
		info.Format, info.PVH = UML, false
	}
	if info.Release = findRelease(io.NewSectionReader(r, 0, size)); info.Release == "" {
		return info, &NotKernelError{Why: "it is an ELF file without a Linux banner: an ordinary program, perhaps"}
	}
	return info, nil
}

// isUML tells a user-mode-linux from a kernel that is loaded into a machine:
// it is a program with a stack of its own.
func isUML(f *elf.File) bool {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_TLS || p.Type == elf.PT_GNU_STACK && f.Section(".uml.setup.init") != nil {
			return true
		}
	}
	return f.Section(".uml.setup.init") != nil
}

// xenNotePhys32 is the ELF note with the PVH entry point (XEN_ELFNOTE_PHYS32_ENTRY).
const xenNotePhys32 = 18

func hasPVHNote(p *elf.Prog, order binary.ByteOrder) bool {
	b := make([]byte, min(p.Filesz, 64<<10))
	n, _ := io.ReadFull(p.Open(), b)
	for b = b[:n]; len(b) >= 12; {
		name, desc, kind := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), order.Uint32(b[8:])
		end := 12 + (name+3)&^3 + (desc+3)&^3
		if end > uint64(len(b)) {
			return false
		}
		if kind == xenNotePhys32 && string(b[12:12+name]) == "Xen\x00" {
			return true
		}
		b = b[end:]
	}
	return false
}

// banner begins linux_banner, which every kernel has in its data.
var banner = []byte("Linux version ")

// findRelease looks for the banner and gives the word after it: "" if there is
// none. A format string that prints the same is passed over.
func findRelease(r io.Reader) string {
	buf := make([]byte, 1<<20)
	keep := 0
	for total := 0; total < maxKernel; {
		n, err := io.ReadFull(r, buf[keep:])
		total += n
		b := buf[:keep+n]
		for at := 0; ; {
			i := bytes.Index(b[at:], banner)
			if i < 0 {
				break
			}
			at += i + len(banner)
			if len(b)-at >= maxRelease || err != nil {
				if word := firstWord(b[at:]); word != "" && word[0] >= '0' && word[0] <= '9' {
					return word
				}
			}
		}
		if err != nil {
			return ""
		}
		keep = copy(buf, b[len(b)-min(len(b), len(banner)+maxRelease):])
	}
	return ""
}

// maxRelease bounds the length of a release: __NEW_UTS_LEN and a terminator.
const maxRelease = 65

// firstWord gives the printable text at the start of b up to a space, or ""
// when it does not end within maxRelease bytes.
func firstWord(b []byte) string {
	for i, c := range b[:min(len(b), maxRelease)] {
		if c == ' ' || c == 0 {
			return string(b[:i])
		}
		if c < ' ' || c >= 0x7f {
			return ""
		}
	}
	return ""
}
