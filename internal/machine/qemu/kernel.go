package qemu

import (
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
	return nil
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
