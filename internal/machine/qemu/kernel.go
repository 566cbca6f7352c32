package qemu

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"

	"wolffia/internal/kernel"
	"wolffia/internal/machine"
)

// checkKernel refuses a kernel that QEMU would not start, or would start
// without a sign of life: most of its loaders take any file for a program.
func checkKernel(spec machine.Spec) error {
	arch := orHost(spec.Arch)
	fail := func(cause, fix string, err error) error {
		return &machine.StartError{Machine: spec.Name, Stage: "start", Cause: cause, Fix: fix, Err: err}
	}
	f, err := os.Open(spec.Kernel)
	if err != nil {
		return fail("the kernel can't be read", "", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail("the kernel can't be read", "", err)
	}
	const fixKernel = "give a kernel image for this machine: a bzImage or vmlinux for a PC, an Image for arm64 and riscv64, a zImage for armhf"
	k, err := kernel.Identify(f, info.Size())
	if err != nil && arch == "armhf" && flatARM(f) {
		return nil
	}
	if err != nil {
		return fail("the kernel can't be booted", fixKernel, err)
	}
	switch {
	case k.Arch != arch && !(arch == "amd64" && k.Arch == "i386"):
		return fail(fmt.Sprintf("the kernel is for %s, and the machine is %s", k.Arch, arch), "take a kernel for "+arch+", or a machine for "+k.Arch, nil)
	case k.Format == kernel.UML:
		return fail("the kernel is a User-Mode Linux, which is no kernel for a QEMU machine", "use the backend uml, or give another kernel", nil)
	case k.Format == kernel.Vmlinux && !bootsELF(arch, k):
		return fail("this vmlinux can't be started by QEMU", fixKernel, nil)
	}
	need := extent(f, k) + initramfsSize(spec)
	if need > spec.Memory {
		return fail(fmt.Sprintf("the kernel and the initramfs alone take %d MiB, and the machine has %d MiB of memory", need>>20, spec.Memory>>20), fixMemory, nil)
	}
	return nil
}

// extent is where a kernel ends in memory, in bytes from its beginning: the
// least that a machine has to have. Without it most crash before they can say
// so. Of formats that do not tell it is 0.
func extent(f *os.File, k kernel.ImageInfo) (end int64) {
	var head [1024]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || k.Gzip {
		return 0
	}
	switch k.Format {
	case kernel.Vmlinux:
		x, err := elf.NewFile(f)
		if err != nil {
			return 0
		}
		for _, p := range x.Progs {
			if p.Type == elf.PT_LOAD && p.Paddr < 1<<40 && p.Memsz < 1<<40 && k.PVH {
				end = max(end, int64(p.Paddr+p.Memsz))
			}
		}
	case kernel.BzImage: // init_size of the setup header
		end = int64(binary.LittleEndian.Uint32(head[0x260:]))
	case kernel.Image: // image_size
		end = int64(min(binary.LittleEndian.Uint64(head[16:]), 1<<40))
	}
	return end
}

func initramfsSize(spec machine.Spec) (sum int64) {
	for _, path := range spec.Initramfs {
		if info, err := os.Stat(path); err == nil { // one that is missing is found later
			sum += info.Size()
		}
	}
	return sum
}

// flatARM says whether a file looks like what kernel.Uncompress makes of a
// zImage, which has no header: it begins with a branch.
func flatARM(f *os.File) bool {
	var word [4]byte
	_, err := f.ReadAt(word[:], 0)
	return err == nil && word[3] == 0xea
}

// bootsELF says whether QEMU starts an ELF kernel as Linux wants it: on x86 by
// its PVH entry, on ARM it does not.
func bootsELF(arch string, k kernel.ImageInfo) bool {
	switch arch {
	case "amd64", "i386":
		return k.PVH
	}
	return arch == "riscv64"
}
