package host

import (
	"encoding/binary"
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
	kvmGetAPIVersion    = 0xae00
	kvmCreateVM         = 0xae01
	kvmGetVCPUMmapSize  = 0xae04
	kvmSetMemoryRegion  = 0x4020ae46
	kvmCreateVCPU       = 0xae41
	kvmRun              = 0xae80
	kvmSetRegs          = 0x4090ae82
	kvmGetSregs         = 0x8138ae83
	kvmSetSregs         = 0x4138ae84
	kvmExitReasonOffset = 8 // in struct kvm_run
	kvmExitHLT          = 5
	kvmMmapSizeMax      = 1 << 20
)

type kvmMemoryRegion struct {
	Slot, Flags            uint32
	Guest, Size, Userspace uint64
}

type kvmRegs struct {
	General     [16]uint64 // rax ... r15
	RIP, RFLAGS uint64
}

type kvmSegment struct {
	Base                                 uint64
	Limit                                uint32
	Selector                             uint16
	Type, Present, DPL, DB, S, L, G, AVL uint8
	Unusable, _                          uint8
}

type kvmSregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT kvmSegment
	GDT, IDT                        [2]uint64
	CR0, CR2, CR3, CR4, CR8         uint64
	EFER, APICBase                  uint64
	Interrupts                      [4]uint64
}

// The guest's memory: page tables that map the first 2 MiB to themselves, the
// program, and a place for what it writes.
const (
	guestPML4   = 0x1000
	guestPDPT   = 0x2000
	guestPD     = 0x3000
	guestCode   = 0x4000
	guestFault  = 0x4800
	guestResult = 0x5000
	guestGDT    = 0x5800
	guestIDT    = 0x6000
	guestStack  = 0x7ff0 // grows down
	guestSize   = 0x8000
	guestMagic  = 0x0a1fa0ffa1a51de5
)

// guestProgram and guestFaultHandler are what every kernel does on its first
// page: it loads its page tables again, asks the processor what it is, touches
// memory that is not mapped, and handles the page fault by mapping it and
// returning. A KVM that runs only a firmware's code does not get through it.
var guestProgram = []byte{
	0x0f, 0x20, 0xd8, // mov %cr3, %rax
	0x0f, 0x22, 0xd8, // mov %rax, %cr3
	0x31, 0xc0, // xor %eax, %eax
	0x0f, 0xa2, // cpuid
	0x48, 0xa1, 0x00, 0x50, 0x20, 0, 0, 0, 0, 0, // movabs guestResult+2 MiB, %rax: faults, then reads guestResult
	0x48, 0xf7, 0xd0, // not %rax
	0x48, 0xa3, 0x00, 0x50, 0, 0, 0, 0, 0, 0, // movabs %rax, guestResult
	0xf4, // hlt
}

var guestFaultHandler = []byte{
	0x48, 0x83, 0xc4, 0x08, // add $8, %rsp: the error code
	0x48, 0xc7, 0x04, 0x25, 0x08, 0x30, 0, 0, 0x83, 0, 0, 0, // movq $0x83, guestPD+8: maps it to the first 2 MiB
	0x48, 0xcf, // iretq
}

// firmwareProgram is 32-bit code without paging, as firmware and boot code are:
// ten million instructions, a few milliseconds for a processor. Where they are
// emulated one by one no guest gets to its kernel in any useful time.
var firmwareProgram = []byte{
	0xb9, 0x40, 0x4b, 0x4c, 0x00, // mov $5000000, %ecx
	0x49,       // dec %ecx
	0x75, 0xfd, // jnz back to it
	0xf4, // hlt
}

// kvmPatience is how long the guest may take.
const kvmPatience = time.Second

// kvm runs a small 64-bit guest, since a /dev/kvm that opens may still not work,
// or only for firmware, as in many virtual machines and containers.
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
	done := make(chan error, 1)
	thread := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: a thread that hung is thrown away
		defer f.Close()        // here, since a guest that hangs may outlast its caller
		thread <- unix.Gettid()
		done <- runHalt(int(f.Fd()))
	}()
	select {
	case err = <-done:
	case <-time.After(kvmPatience):
		err = fmt.Errorf("a guest that needs milliseconds did not end within %v: its code is emulated, if it runs at all", kvmPatience)
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

// runHalt makes a virtual machine with some memory and one processor in 64-bit
// mode, and has it run guestProgram.
func runHalt(kvm int) error {
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != 12 {
		return fmt.Errorf("its version is %d: %v", v, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("it makes no virtual machine: %w", err)
	}
	defer unix.Close(vm)
	mem, err := unix.Mmap(-1, 0, guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	binary.LittleEndian.PutUint64(mem[guestPML4:], guestPDPT|3) // present, writable
	binary.LittleEndian.PutUint64(mem[guestPDPT:], guestPD|3)
	binary.LittleEndian.PutUint64(mem[guestPD:], 0x83) // the same, and 2 MiB large
	copy(mem[guestFault:], guestFaultHandler)
	binary.LittleEndian.PutUint64(mem[guestResult:], ^uint64(guestMagic))
	binary.LittleEndian.PutUint64(mem[guestGDT+8:], 0x00af9b000000ffff)  // 64-bit code
	binary.LittleEndian.PutUint64(mem[guestGDT+16:], 0x00cf93000000ffff) // data
	const pageFault = 14
	binary.LittleEndian.PutUint64(mem[guestIDT+16*pageFault:], guestFault|8<<16|0x8e00<<32)
	region := kvmMemoryRegion{Size: guestSize, Userspace: uint64(uintptr(unsafe.Pointer(&mem[0])))}
	if _, err := ioctl(vm, kvmSetMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("a virtual machine takes no memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("a virtual machine takes no processor: %w", err)
	}
	defer unix.Close(cpu)
	copy(mem[guestCode:], firmwareProgram)
	if err := enterProtectedMode(cpu); err != nil {
		return err
	}
	if err := runCPU(kvm, cpu); err != nil {
		return fmt.Errorf("32-bit code: %w", err)
	}
	copy(mem[guestCode:], guestProgram)
	if err := enterLongMode(cpu); err != nil {
		return err
	}
	if err := runCPU(kvm, cpu); err != nil {
		return fmt.Errorf("64-bit code: %w", err)
	}
	if got := binary.LittleEndian.Uint64(mem[guestResult:]); got != guestMagic {
		return fmt.Errorf("a guest wrote %#x where it was to write %#x", got, uint64(guestMagic))
	}
	return nil
}

// enterProtectedMode sets the processor up for 32-bit code without paging.
func enterProtectedMode(cpu int) error {
	var s kvmSregs
	if _, err := ioctl(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return fmt.Errorf("a processor has no registers: %w", err)
	}
	data := kvmSegment{Limit: 0xffffffff, Selector: 0x10, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.CS = kvmSegment{Limit: 0xffffffff, Selector: 0x08, Type: 11, Present: 1, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.CR0 = 1 | 1<<4 // protection, extension type
	return start(cpu, &s)
}

// start loads the registers of a processor that is to begin at guestCode.
func start(cpu int, s *kvmSregs) error {
	if _, err := ioctl(cpu, kvmSetSregs, uintptr(unsafe.Pointer(s))); err != nil {
		return fmt.Errorf("a processor does not enter the mode it should: %w", err)
	}
	regs := kvmRegs{RIP: guestCode, RFLAGS: 2}
	regs.General[6] = guestStack // rsp: rax, rbx, rcx, rdx, rsi, rdi, rsp
	if _, err := ioctl(cpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs))); err != nil {
		return fmt.Errorf("a processor takes no registers: %w", err)
	}
	return nil
}

// enterLongMode sets the processor up as a kernel's 64-bit entry finds it.
func enterLongMode(cpu int) error {
	var s kvmSregs
	if _, err := ioctl(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return fmt.Errorf("a processor has no registers: %w", err)
	}
	data := kvmSegment{Limit: 0xffffffff, Selector: 0x10, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.CS = kvmSegment{Limit: 0xffffffff, Selector: 0x08, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.CR0 = 1 | 1<<5 | 1<<31 // protection, numeric errors, paging
	s.CR3 = guestPML4
	s.CR4 = 1 << 5 // physical address extension
	s.GDT = [2]uint64{guestGDT, 23}
	s.IDT = [2]uint64{guestIDT, 16*15 - 1}
	s.EFER = 1<<8 | 1<<10 // long mode, enabled and active
	return start(cpu, &s)
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
	if reason := binary.NativeEndian.Uint32(state[kvmExitReasonOffset:]); reason != kvmExitHLT {
		return fmt.Errorf("a guest that should halt left with reason %d", reason)
	}
	return nil
}
