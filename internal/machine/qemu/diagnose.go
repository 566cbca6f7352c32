package qemu

import "wolffia/internal/machine"

const (
	fixQEMU    = "wolffia doctor says what this host has, and how to get QEMU 7.2 or later"
	fixTCG     = "run it without KVM (emulated)"
	fixSilence = "give the machine more memory (--memory), or a kernel that is made for it and whole; to see what it says, add the kernel parameters earlyprintk=serial (a PC) or earlycon (others)"
	fixMemory  = "give the machine more memory (--memory)"
)

// symptoms are what QEMU says before it ends.
func symptoms() []machine.Symptom {
	const start = "start"
	return []machine.Symptom{
		{Text: "error while loading shared libraries: ", Stage: start, Cause: "a library of QEMU is missing: ", Fix: fixQEMU},
		{Text: "' not found (required by ", Stage: start, Cause: "QEMU needs a newer C library than this host has", Fix: fixQEMU},
		{Text: "seccomp support is disabled", Stage: start, Cause: "this QEMU was built without a sandbox", Fix: fixQEMU},
		{Text: "failed to install seccomp syscall filter", Stage: start, Cause: "QEMU can't enter its sandbox on this host", Fix: fixQEMU},
		{Text: "Could not access KVM kernel module: ", Stage: start, Cause: "KVM can't be used: ", Fix: fixTCG},
		{Text: "failed to initialize kvm: ", Stage: start, Cause: "KVM can't be used: ", Fix: fixTCG},
		{Text: "cannot set up guest memory", Stage: start, Cause: "this host does not give the machine its memory", Fix: "ask for less memory (--memory)"},
		{Text: "Failed to get \"write\" lock", Stage: start, Cause: "a disk is in use by another machine", Fix: "stop that machine, or use the disk without persistent, which gives each machine a scratch copy"},
		{Text: "Failed to get shared \"write\" lock", Stage: start, Cause: "a disk is being written by another machine", Fix: "stop that machine"},
		{Text: "initrd is too large", Stage: start, Cause: "the initramfs does not fit into the machine's memory", Fix: fixMemory},
		{Text: "could not load ramdisk", Stage: start, Cause: "the initramfs does not fit into the machine's memory", Fix: fixMemory},
		{Text: "could not load initrd", Stage: start, Cause: "the initramfs does not fit into the machine's memory", Fix: fixMemory},
		{Text: "could not load kernel", Stage: start, Cause: "the kernel can't be loaded; it may not fit into the machine's memory: ", Fix: fixMemory},
		{Text: "Some ROM regions are overlapping", Stage: start, Cause: "kernel and initramfs do not fit into the machine's memory", Fix: fixMemory},
		{Text: "could not load PC BIOS", Stage: start, Cause: "QEMU's own firmware files are missing: ", Fix: fixQEMU},
		{Text: "failed to find romfile", Stage: start, Cause: "QEMU's own firmware files are missing: ", Fix: fixQEMU},
		{Text: "Image is not in qcow2 format", Stage: start, Cause: "a disk is no qcow2 image", Fix: "say format raw, or convert it"},
		{Text: "is not a valid machine type", Stage: start, Cause: "this QEMU does not know the machine", Fix: fixQEMU},
		{Text: "unsupported machine type", Stage: start, Cause: "this QEMU does not know the machine", Fix: fixQEMU},
		{Text: "fsdev support is disabled", Stage: start, Cause: "this QEMU was built without shared folders", Fix: "use Debian's QEMU, or the backend uml, or leave the shares out"},
		{Text: "There is no option group 'fsdev'", Stage: start, Cause: "this QEMU was built without shared folders", Fix: "use Debian's QEMU, or the backend uml, or leave the shares out"},
		{Text: "Invalid parameter 'stream'", Stage: start, Cause: "this QEMU is older than 7.2", Fix: fixQEMU},
	}
}
