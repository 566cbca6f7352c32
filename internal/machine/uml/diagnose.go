package uml

import "wolffia/internal/machine"

// restartFailed is what the kernel says on the host when the guest restarts:
// it would execute its own argv[0], which this package makes impossible.
const restartFailed = "Failed to exec kernel"

const fixHost = "wolffia doctor says what this host allows"

// symptoms are what a User-Mode Linux kernel and its loader say.
func symptoms() []machine.Symptom {
	const fixLibc = "let wolffia get a kernel with a C library of its own"
	return []machine.Symptom{
		{Text: "' not found (required by ", Stage: "start", Cause: "the kernel needs a newer C library than this host has", Fix: fixLibc},
		{Text: "error while loading shared libraries: ", Stage: "start", Cause: "a library of the kernel is missing: ", Fix: fixLibc},
		{Text: "ptrace set fp regs failed, errno = 14", Stage: "init", Cause: "this kernel can't save the state of this host's processor (AMX)", Fix: "use user-mode-linux 6.13 or later (Debian sid)"},
		{Text: "check_ptrace : expected SIGSTOP", Stage: "start", Cause: "ptrace does not work on this host", Fix: fixHost},
		{Text: "ptrace failed, errno = ", Stage: "start", Cause: "ptrace is forbidden on this host; errno ", Fix: fixHost},
		{Text: "Too few physical memory!", Stage: "kernel", Cause: "the machine has too little memory to boot", Fix: "give the machine more memory (--memory)"},
		{Text: "Couldn't find initrd", Stage: "start", Cause: "the initramfs can't be read", Fix: ""},
	}
}
