package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Jail is all that a program sees of the host's files: a tree of its own, in a
// mount namespace, with nothing in it but what is mounted there. Symbolic links,
// "..", and whatever else a program is made to open, lead nowhere else.
type Jail struct {
	Dir    string  // an existing empty folder, within which it is put together
	Mounts []Mount // in this order; those above others first
}

// Mount is one file or folder of a [Jail], or one file system.
type Mount struct {
	Kind MountKind
	From string // the host's file or folder, of the kinds that have one
	At   string // absolute, in the jail; made, as what From is
	Size int64  // bytes, of [Memory]
}

// MountKind is what a [Mount] mounts.
type MountKind string

// The kinds of mounts. Device nodes only work in those of kind Device.
const (
	ReadOnly  MountKind = "read-only"  // From, which can't be changed
	ReadWrite MountKind = "read-write" // From
	Device    MountKind = "device"     // From, a device node
	Memory    MountKind = "memory"     // an empty tmpfs
	Processes MountKind = "processes"  // /proc, which can't be written to
)

// NoJailError is a host that does not let this process make mount namespaces, or
// not all that a [Jail] needs.
type NoJailError struct{ Err error }

func (e *NoJailError) Error() string {
	return "keep a program from other files: " + e.Err.Error()
}

func (e *NoJailError) Unwrap() error { return e.Err }

// arguments writes j for the keeper; nil is none.
func (j *Jail) arguments() []string {
	if j == nil {
		return []string{"0"}
	}
	out := []string{strconv.Itoa(len(j.Mounts)), j.Dir}
	for _, m := range j.Mounts {
		out = append(out, string(m.Kind), m.From, m.At, strconv.FormatInt(m.Size, 10))
	}
	return out
}

// readJail reads what arguments wrote, and gives what comes behind it.
func readJail(args []string) (*Jail, []string, bool) {
	if len(args) == 0 {
		return nil, nil, false
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 0 || n > len(args)/4 {
		return nil, nil, false
	}
	if n == 0 {
		return nil, args[1:], true
	}
	if len(args) < 2+4*n {
		return nil, nil, false
	}
	j, rest := &Jail{Dir: args[1]}, args[2:]
	for ; n > 0; n-- {
		size, err := strconv.ParseInt(rest[3], 10, 64)
		if err != nil {
			return nil, nil, false
		}
		j.Mounts = append(j.Mounts, Mount{MountKind(rest[0]), rest[1], rest[2], size})
		rest = rest[4:]
	}
	return j, rest, true
}

// what names a step of enter, for a report.
func (j *Jail) what(step int) string {
	if step < len(j.Mounts) {
		m := j.Mounts[step]
		return strings.TrimSpace("mount "+m.From) + " at " + m.At
	}
	return "change over to " + j.Dir
}

// enter puts the jail together and makes it the root of this process. It gives
// the step that failed, for what, with an error.
func (j *Jail) enter() (step int, err error) {
	wd, err := os.Getwd()
	if err != nil {
		return len(j.Mounts), err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return len(j.Mounts), err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("tmpfs", j.Dir, "tmpfs", flags, "mode=755,size=1m"); err != nil {
		return len(j.Mounts), err
	}
	for i, m := range j.Mounts {
		if err := m.mount(j.Dir); err != nil {
			return i, err
		}
	}
	// pivot_root(2) says why this works: the old root comes to lie upon the new.
	for _, do := range []func() error{
		func() error { return unix.Chdir(j.Dir) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, "") },
		func() error { return unix.Chdir(wd) },
		bequeathNothing, // of this thread, which starts the program
	} {
		if err := do(); err != nil {
			return len(j.Mounts), err
		}
	}
	return 0, nil
}

func (m Mount) mount(root string) error {
	at := filepath.Join(root, m.At)
	switch m.Kind {
	case Memory, Processes:
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if m.Kind == Memory {
			return unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700,size="+strconv.FormatInt(m.Size, 10))
		}
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		err := unix.Mount("proc", at, "proc", flags, "")
		if errors.Is(err, unix.EPERM) { // in a container that hides parts of its own
			err = unix.Mount("/proc", at, "", unix.MS_BIND|unix.MS_REC, "")
		}
		if err != nil {
			return err
		}
		return restrict(at, flags|unix.MS_RDONLY) // /proc/sys is root's
	}
	if err := m.point(at); err != nil {
		return err
	}
	if err := unix.Mount(m.From, at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if m.Kind == Device {
		return nil
	}
	var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV
	if m.Kind == ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return restrict(at, flags)
}

// point makes what m can be mounted on.
func (m Mount) point(at string) error {
	info, err := os.Stat(m.From)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// restrict adds flags to a mount, and keeps those that a mount namespace of a user
// namespace must keep (mount_namespaces(7)).
func restrict(at string, flags uintptr) error {
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		return err
	}
	for _, f := range []struct{ stat, mount uintptr }{
		{unix.ST_RDONLY, unix.MS_RDONLY}, {unix.ST_NOEXEC, unix.MS_NOEXEC}, {unix.ST_NOATIME, unix.MS_NOATIME},
		{unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if uintptr(s.Flags)&f.stat != 0 {
			flags |= f.mount
		}
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}

// failed packs a step that failed for the parent.
func failed(step int, err error) uint32 {
	errno := syscall.EIO
	errors.As(err, &errno)
	return uint32(step)<<16 | uint32(errno)&0xffff
}

// unpack makes an error of what failed packed.
func (j *Jail) unpack(packed uint32) error {
	return &NoJailError{fmt.Errorf("%s: %w", j.what(int(packed>>16)), syscall.Errno(packed&0xffff))}
}
