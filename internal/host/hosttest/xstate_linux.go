// Package hosttest makes the host look like another one to tests and
// benchmarks.
package hosttest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WithoutAVX is a kernel parameter that the programs of a guest get as an
// environment variable. With less than all of the processor's state (see
// [HideXState]) they lose the upper halves of vector registers when a page is
// missing: the C library shall not use them.
const WithoutAVX = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load"

// HideXState has the kernel refuse to give a traced process's extended state to
// this process and to what it starts from now on, for good: a seccomp filter. An
// old User-Mode Linux, which has no room for the state of a processor with AMX,
// then does with less.
func HideXState() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("hide processor state: %s has none that is too large", runtime.GOARCH)
	}
	const (
		ptrace, getRegset, xstate = 101, 0x4204, 0x202 // on amd64
		number, request, kind     = 0, 16, 32          // where struct seccomp_data has them
	)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: k}
	}
	filter := []unix.SockFilter{
		load(number), unless(ptrace, 5),
		load(request), unless(getRegset, 3),
		load(kind), unless(xstate, 1),
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the filter needs no_new_privs of the thread that brings it
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("hide processor state: %w", err)
	}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("hide processor state: seccomp: %w", errno)
	}
	if r != 0 {
		return fmt.Errorf("hide processor state: thread %d has another filter", r)
	}
	return nil
}
