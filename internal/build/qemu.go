package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"wolffia/internal/debian"
	"wolffia/internal/program"
	"wolffia/internal/tree"
)

// Kinds of objects in the store.
const (
	kindQEMU     = "qemu"
	kindFirmware = "firmware"
)

// qemuRelease is the Debian release that QEMU and firmware are taken from.
const qemuRelease = "trixie"

// qemuLayout says how a QEMU and firmware lie in the store.
const qemuLayout = "qemu 1 "

// QEMU is a QEMU in the store, which needs nothing of the host's.
type QEMU struct {
	Argv    []string // begins its command line: its own dynamic loader, the loader's options, Path
	Path    string   // of the program
	DataDir string   // for -L: the option ROMs and firmware that machines are started with
	Version string   // "10.0.13"
	release func()
}

// Close lets the store remove it again.
func (q *QEMU) Close() { q.release() }

// qemuParts says what is taken for machines of an architecture, from which
// package, and which files of it and of those that it depends on. There is no
// boot ROM for network cards: give each -device the property romfile= (empty).
type qemuParts struct {
	pkg, program string
	data         []string
	lacks        []string // packages that it depends on and can do without
}

// qemuLacks are packages that QEMU depends on for other than headless machines
// of the architectures that wolffia has.
var qemuLacks = []string{
	"qemu-system-common", "ipxe-qemu", "debconf", "adduser", "openssl-provider-legacy", "libsasl2-modules-db",
}

var qemuX86 = []string{
	"/usr/share/seabios/bios.bin", "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/bios-microvm.bin",
	"/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/seabios/vgabios-virtio.bin",
	"/usr/share/qemu/qboot.rom", "/usr/share/qemu/kvmvapic.bin", "/usr/share/qemu/pvh.bin",
	"/usr/share/qemu/linuxboot.bin", "/usr/share/qemu/linuxboot_dma.bin",
	"/usr/share/qemu/multiboot.bin", "/usr/share/qemu/multiboot_dma.bin",
}

var qemus = map[string]qemuParts{
	"amd64":   {pkg: "qemu-system-x86", program: "qemu-system-x86_64", data: qemuX86},
	"i386":    {pkg: "qemu-system-x86", program: "qemu-system-i386", data: qemuX86},
	"arm64":   {pkg: "qemu-system-arm", program: "qemu-system-aarch64", lacks: []string{"qemu-system-data"}},
	"armhf":   {pkg: "qemu-system-arm", program: "qemu-system-arm", lacks: []string{"qemu-system-data"}},
	"riscv64": {pkg: "qemu-system-riscv", program: "qemu-system-riscv64", lacks: []string{"qemu-system-data"}, data: []string{"/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin"}},
}

func qemuRequest(parts qemuParts) debian.Request {
	return debian.Request{
		Release: qemuRelease, Arch: HostArch(), Packages: []string{parts.pkg},
		Exclude: append(parts.lacks[:len(parts.lacks):len(parts.lacks)], qemuLacks...),
	}
}

// QEMU gives a QEMU for machines of an architecture, out of Debian's packages
// for the host's, with a C library and all else that it needs. It runs from
// the store, without root, whatever the host's distribution is.
func (b *Builder) QEMU(ctx context.Context, arch string) (*QEMU, error) {
	parts, ok := qemus[arch]
	if !ok {
		return nil, fmt.Errorf("get QEMU: there is none for architecture %q here", arch)
	}
	fail := func(err error) (*QEMU, error) { return nil, fmt.Errorf("get %s: %w", parts.program, err) }
	lock, err := b.Lock(ctx, qemuRequest(parts))
	if err != nil {
		return fail(err)
	}
	key := digest([]byte(qemuLayout + parts.program + " " + lock.Digest()))
	dir, release, err := b.folder(ctx, kindQEMU, key, func(dir string) error {
		return b.installQEMU(ctx, dir, parts, lock)
	})
	if err != nil {
		return fail(err)
	}
	p := program.At(dir, parts.program)
	q := &QEMU{Argv: p.Argv(), Path: p.Path, DataDir: filepath.Join(dir, dataDir), release: release}
	for _, pin := range lock.Packages {
		if pin.Name == parts.pkg {
			q.Version, _, _ = strings.Cut(pin.Version.Upstream, "+")
		}
	}
	return q, nil
}

const dataDir = "data"

func (b *Builder) installQEMU(ctx context.Context, dir string, parts qemuParts, lock *debian.Lock) error {
	u, err := b.Client.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true})
	if err != nil {
		return err
	}
	defer u.Close()
	if _, err := program.Install(dir, u.Tree, "/usr/bin/"+parts.program, program.Options{Libraries: []string{"libgcc_s.so.1"}}); err != nil {
		return err
	}
	return writeFiles(filepath.Join(dir, dataDir), u.Tree, parts.data)
}

// writeFiles writes files of a tree into a new folder, under their base names.
func writeFiles(dir string, t *tree.Tree, files []string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		_, n, err := t.Resolve(f)
		if err != nil {
			return err
		}
		if err := program.WriteFile(filepath.Join(dir, path.Base(f)), n); err != nil {
			return err
		}
	}
	return nil
}

// Firmware is a machine's UEFI in the store, in two flash images of the size
// that the machine wants.
type Firmware struct {
	Code    string // path of the program; read-only
	Vars    string // path of the empty variable store: each machine has a copy
	release func()
}

// Close lets the store remove it again.
func (f *Firmware) Close() { f.release() }

// ErrNoFirmware says that machines of an architecture are not started by UEFI.
var ErrNoFirmware = errors.New("there is no UEFI firmware for it")

var firmwares = map[string]struct{ pkg, code, vars string }{
	"amd64":   {"ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	"i386":    {"ovmf-ia32", "/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF32_VARS_4M.fd"},
	"arm64":   {"qemu-efi-aarch64", "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
	"armhf":   {"qemu-efi-arm", "/usr/share/AAVMF/AAVMF32_CODE.fd", "/usr/share/AAVMF/AAVMF32_VARS.fd"},
	"riscv64": {"qemu-efi-riscv64", "/usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd", "/usr/share/qemu-efi-riscv64/RISCV_VIRT_VARS.fd"},
}

// Firmware gives the UEFI for machines of an architecture. No keys are enrolled
// in it, so it starts whatever it finds: there is no secure boot.
func (b *Builder) Firmware(ctx context.Context, arch string) (*Firmware, error) {
	w, ok := firmwares[arch]
	fail := func(err error) (*Firmware, error) { return nil, fmt.Errorf("get firmware for %s: %w", arch, err) }
	if !ok {
		return fail(ErrNoFirmware)
	}
	lock, err := b.Lock(ctx, debian.Request{Release: qemuRelease, Arch: HostArch(), Packages: []string{w.pkg}})
	if err != nil {
		return fail(err)
	}
	dir, release, err := b.folder(ctx, kindFirmware, digest([]byte(qemuLayout+lock.Digest())), func(dir string) error {
		u, err := b.Client.Unpack(ctx, lock, debian.UnpackOptions{NoDatabase: true})
		if err != nil {
			return err
		}
		defer u.Close()
		return writeFiles(filepath.Join(dir, dataDir), u.Tree, []string{w.code, w.vars})
	})
	if err != nil {
		return fail(err)
	}
	return &Firmware{
		Code: filepath.Join(dir, dataDir, path.Base(w.code)), Vars: filepath.Join(dir, dataDir, path.Base(w.vars)), release: release,
	}, nil
}
