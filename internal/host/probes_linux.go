package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host answers what this host can do. Make it with [New]; every probe runs at
// most once.
type Host struct {
	UserNamespaces func() error // as an ordinary user, or as root
	KVM            func() error // a guest really runs
	FUSE           func() error
	TUN            func() error // a tap can be made in a namespace of one's own
	Ping           func() error // echo requests can be sent
	Memory         func() error // memory for machines can be mapped for execution
	Trace          func() error // a process can trace its children

	xstate func() int
}

// New makes a Host. Nothing is tried before it is asked for.
func New() *Host {
	return &Host{
		UserNamespaces: sync.OnceValue(userNamespaces),
		KVM:            sync.OnceValue(kvm),
		FUSE:           sync.OnceValue(fuse),
		TUN:            sync.OnceValue(tun),
		Ping:           sync.OnceValue(ping),
		Memory:         sync.OnceValue(memory),
		Trace:          sync.OnceValue(trace),
		xstate:         sync.OnceValue(xstate),
	}
}

// Check is one line of doctor's.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	For    string `json:"for"`           // what it is good for
	Why    string `json:"why,omitempty"` // what was seen, when it is not OK
	Fix    string `json:"fix,omitempty"`
	Needed bool   `json:"needed"` // nothing runs without it
}

// All runs every probe.
func (h *Host) All() []Check {
	var out []Check
	for _, p := range []struct {
		name, use string
		needed    bool
		probe     func() error
	}{
		{"process tracing", "User-Mode Linux machines", true, h.Trace},
		{"executable shared memory", "the memory of User-Mode Linux machines", true, h.Memory},
		{"user namespaces", "ending whole process trees at once, taps without root", false, h.UserNamespaces},
		{"ping", "echoes of hosts beyond the gateway", false, h.Ping},
		{"tun/tap", "plugging the host into a network", false, h.TUN},
		{"FUSE", "mounting images", false, h.FUSE},
		{"KVM", "QEMU machines at full speed", false, h.KVM},
	} {
		c := Check{Name: p.name, OK: true, For: p.use, Needed: p.needed}
		if err := p.probe(); err != nil {
			c.OK, c.Why = false, err.Error()
			var u *UnsupportedError
			if errors.As(err, &u) {
				c.Why, c.Fix = u.Why, u.Fix
			}
		}
		out = append(out, c)
	}
	return out
}

// XState is how many bytes of processor state a traced process has
// (NT_X86_XSTATE), or 0 where it can't be told. Processors with AMX have more
// than older kernels of User-Mode Linux can take.
func (h *Host) XState() int { return h.xstate() }

// anyProgram is a program that ends at once with status 0.
func anyProgram() string {
	for _, p := range []string{"/usr/bin/true", "/bin/true"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func userNamespaces() error {
	no := func(why string) error {
		return &UnsupportedError{Feature: "user namespaces", Why: why, Fix: userNamespaceFix()}
	}
	program := anyProgram()
	if program == "" {
		return no("there is no /bin/true to try them with")
	}
	cmd := exec.CommandContext(context.Background(), program)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return no(err.Error())
	}
	return nil
}

// userNamespaceFix names the setting that is in the way.
func userNamespaceFix() string {
	for _, s := range []struct{ file, bad, fix string }{
		{"kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"},
	} {
		if data, err := os.ReadFile(filepath.Join("/proc/sys", s.file)); err == nil && strings.TrimSpace(string(data)) == s.bad {
			return s.fix
		}
	}
	return "a container or a security policy forbids them; wolffia does without"
}

func fuse() error {
	return device("FUSE", "/dev/fuse", "sudo modprobe fuse && sudo chmod a+rw /dev/fuse")
}

func tun() error {
	return device("tun/tap", "/dev/net/tun", "sudo modprobe tun && sudo chmod a+rw /dev/net/tun")
}

func device(feature, path, fix string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return &UnsupportedError{Feature: feature, Why: err.Error(), Fix: fix}
	}
	return f.Close()
}

func ping() error {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err == nil {
			return unix.Close(fd)
		}
	}
	return &UnsupportedError{
		Feature: "ping", Why: "neither ping sockets nor raw sockets are allowed",
		Fix: `sudo sysctl net.ipv4.ping_group_range="0 2147483647"`,
	}
}

func memory() error {
	var why []error
	for _, dir := range []string{"/dev/shm", os.TempDir()} {
		err := mapsExecutable(dir)
		if err == nil {
			return nil
		}
		why = append(why, fmt.Errorf("%s: %w", dir, err))
	}
	return &UnsupportedError{
		Feature: "executable shared memory", Why: strings.ReplaceAll(errors.Join(why...).Error(), "\n", "; "),
		Fix: "set TMPDIR to a folder that can be written and is not mounted noexec",
	}
}

func mapsExecutable(dir string) error {
	f, err := os.CreateTemp(dir, "wolffia-probe-*")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		return err
	}
	page, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map for execution: %w", err)
	}
	return unix.Munmap(page)
}

func trace() error {
	program := anyProgram()
	if program == "" {
		return nil // nothing to try it with; the machine itself will tell
	}
	cmd := exec.CommandContext(context.Background(), program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return &UnsupportedError{
			Feature: "process tracing", Why: err.Error(),
			Fix: "allow it: sudo sysctl kernel.yama.ptrace_scope=1, or run the container with --cap-add SYS_PTRACE",
		}
	}
	// The tracee stops before its first instruction and is of no use.
	cmd.Process.Kill()
	cmd.Wait()
	return nil
}
