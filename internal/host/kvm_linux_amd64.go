package host

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and structures of linux/kvm.h for x86.
const (
	kvmGetAPIVersion     = 0xae00
	kvmCreateVM          = 0xae01
	kvmGetVCPUMmapSize   = 0xae04
	kvmSetMemoryRegion   = 0x4020ae46
	kvmCreateVCPU        = 0xae41
	kvmRun               = 0xae80
	kvmSetRegs           = 0x4090ae82
	kvmGetSregs          = 0x8138ae83
	kvmSetSregs          = 0x4138ae84
	kvmExitReasonOffset  = 8 // in struct kvm_run
	kvmExitHLT           = 5
	kvmMmapSizeMax       = 1 << 20
	guestPhysicalAddress = 0x1000
)

type kvmMemoryRegion struct {
	Slot, Flags            uint32
	Guest, Size, Userspace uint64
}

type kvmRegs struct {
	General     [16]uint64 // rax ... r15
	RIP, RFLAGS uint64
}

// kvmSregs is struct kvm_sregs: eight segments of 24 bytes and more. Only the
// code segment, the first, is changed.
type kvmSregs struct {
	CSBase     uint64
	CSLimit    uint32
	CSSelector uint16
	rest       [312 - 14]byte
}

// kvmPatience is how long the guest may take for its one instruction.
const kvmPatience = 2 * time.Second

// kvm runs a guest of one instruction, since a /dev/kvm that opens may still
// not work, as in many virtual machines and containers.
func kvm() error {
	no := func(why error, fix string) error {
		return &UnsupportedError{Feature: "KVM", Why: why.Error(), Fix: fix}
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrPermission):
		return no(err, "sudo usermod -aG kvm $USER, then log in again")
	case err != nil:
		return no(err, "load kvm_intel or kvm_amd, or switch virtualisation on in the firmware; machines are emulated without")
	}
	defer f.Close()
	done := make(chan error, 1)
	thread := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: a thread that hung is thrown away
		thread <- unix.Gettid()
		done <- runHalt(int(f.Fd()))
	}()
	select {
	case err = <-done:
	case <-time.After(kvmPatience):
		err = fmt.Errorf("a guest of one instruction did not end within %v", kvmPatience)
		unix.Tgkill(os.Getpid(), <-thread, unix.SIGURG) // ends KVM_RUN with EINTR
	}
	if err != nil {
		return no(fmt.Errorf("/dev/kvm opens, but %w", err), "machines are emulated instead; a virtual machine needs nested virtualisation from its host")
	}
	return nil
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// runHalt makes a virtual machine with one page, one processor and the
// instruction HLT, and runs it.
func runHalt(kvm int) error {
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != 12 {
		return fmt.Errorf("its version is %d: %v", v, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("it makes no virtual machine: %w", err)
	}
	defer unix.Close(vm)
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	page[0] = 0xf4 // hlt
	region := kvmMemoryRegion{Guest: guestPhysicalAddress, Size: uint64(len(page)), Userspace: uint64(uintptr(unsafe.Pointer(&page[0])))}
	if _, err := ioctl(vm, kvmSetMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("a virtual machine takes no memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("a virtual machine takes no processor: %w", err)
	}
	defer unix.Close(cpu)
	return runCPU(kvm, cpu)
}

func runCPU(kvm, cpu int) error {
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil || size <= kvmExitReasonOffset+4 || size > kvmMmapSizeMax {
		return fmt.Errorf("a processor's state has %d bytes: %v", size, err)
	}
	state, err := unix.Mmap(cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("a processor's state can't be mapped: %w", err)
	}
	defer unix.Munmap(state)
	var sregs kvmSregs
	if _, err := ioctl(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return fmt.Errorf("a processor has no registers: %w", err)
	}
	sregs.CSBase, sregs.CSSelector = 0, 0
	if _, err := ioctl(cpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return fmt.Errorf("a processor takes no registers: %w", err)
	}
	regs := kvmRegs{RIP: guestPhysicalAddress, RFLAGS: 2}
	if _, err := ioctl(cpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs))); err != nil {
		return fmt.Errorf("a processor takes no registers: %w", err)
	}
	for start := time.Now(); ; {
		_, err := ioctl(cpu, kvmRun, 0)
		if err == unix.EINTR && time.Since(start) < kvmPatience {
			continue
		}
		if err != nil {
			return fmt.Errorf("a guest does not run: %w", err)
		}
		break
	}
	if reason := *(*uint32)(unsafe.Pointer(&state[kvmExitReasonOffset])); reason != kvmExitHLT {
		return fmt.Errorf("a guest that should halt left with reason %d", reason)
	}
	return nil
}
