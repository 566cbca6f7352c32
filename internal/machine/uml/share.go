package uml

import (
	"fmt"
	"os"
	"path/filepath"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
)

const (
	// sharesDir is the folder of a jail in which each shared folder lies by its
	// tag: all that hostfs shows.
	sharesDir = "/wolffia-shares"
	// jailDir is the folder in Spec.Dir within which a jail is put together.
	jailDir = "jail"
	// spare is what a jail's folder for the machine's memory has room for besides.
	spare = 1 << 20
)

// jail is all that the kernel of a machine with shared folders sees of the host's
// files; nil for one without. memory is the folder of its memory.
//
// Besides what it works with there is nothing in it, since hostfs=FOLDER does
// not hold a guest: "mount -t hostfs none /mnt -o .." leads out, and so does a
// link to a folder that takes the place of a folder which the guest's kernel still
// believes to be there, as a second mount allows it.
func (p *plan) jail(memory string) (*keeper.Jail, error) {
	s := p.spec
	if len(s.Shares) == 0 {
		return nil, nil
	}
	j := &keeper.Jail{Dir: filepath.Join(s.Dir, jailDir)}
	add := func(kind keeper.MountKind, from string) {
		j.Mounts = append(j.Mounts, keeper.Mount{Kind: kind, From: from, At: from})
	}
	j.Mounts = append(j.Mounts, keeper.Mount{Kind: keeper.Processes, At: "/proc"})
	for _, name := range []string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"} {
		add(keeper.Device, name)
	}
	if memory != s.Dir {
		j.Mounts = append(j.Mounts, keeper.Mount{Kind: keeper.Memory, At: memory, Size: s.Memory + spare})
	}
	// A kernel of the person's own has the host's libraries.
	for _, name := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"} {
		if _, err := os.Stat(name); err == nil {
			add(keeper.ReadOnly, name)
		}
	}
	add(keeper.ReadWrite, s.Dir)
	add(keeper.ReadOnly, s.Kernel)
	if p.runtime != "" {
		add(keeper.ReadOnly, p.runtime)
	}
	if len(s.Initramfs) == 1 {
		add(keeper.ReadOnly, s.Initramfs[0])
	}
	for _, d := range s.Disks {
		kind, err := diskMount(d)
		if err != nil {
			return nil, err
		}
		add(kind, d.Path)
		if d.Overlay != "" {
			add(keeper.ReadWrite, d.Overlay)
		}
	}
	for _, x := range s.Shares {
		kind := keeper.ReadWrite
		if x.ReadOnly {
			kind = keeper.ReadOnly
		}
		j.Mounts = append(j.Mounts, keeper.Mount{Kind: kind, From: x.Path, At: filepath.Join(sharesDir, x.Tag)})
	}
	return j, nil
}

// diskMount is how a disk's image gets into a jail.
func diskMount(d machine.Disk) (keeper.MountKind, error) {
	info, err := os.Stat(d.Path)
	switch {
	case err != nil:
		return "", err
	case info.Mode()&os.ModeDevice != 0:
		return keeper.Device, nil
	case d.Persistent && !d.ReadOnly:
		return keeper.ReadWrite, nil
	}
	return keeper.ReadOnly, nil
}

// files are the mounts of the machine's jail, in words.
func (p *plan) files(memory string) (out []string) {
	j, err := p.jail(memory)
	if err != nil || j == nil {
		return nil
	}
	for _, m := range j.Mounts {
		out = append(out, fmt.Sprintf("%s: %s %s", m.At, m.Kind, m.From))
	}
	return out
}
