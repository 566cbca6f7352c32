package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"wolffia/internal/lab"
)

// share has a machine see the folders of --share, besides those of the file, and
// looks whether all of them are there.
func (p *project) share(env Env, flags []string, m *lab.Machine) error {
	if err := p.checkShares(env, m); err != nil {
		return err
	}
	for _, text := range flags {
		s, err := lab.ParseShare(text)
		if err != nil {
			return &usageError{err}
		}
		s.From = inDir(env.Dir, s.From)
		if err := wantFolder(s.From); err != nil {
			return usagef("share %s: %w", text, err)
		}
		for _, other := range m.Shares {
			if other.To == s.To {
				return usagef("share %s: %s is at %s already", text, other.From, other.To)
			}
		}
		for _, k := range m.Disks {
			if k.Mount == s.To {
				return usagef("share %s: disk %s is at %s already", text, k.Name, k.Mount)
			}
		}
		m.Shares = append(m.Shares, s)
	}
	return nil
}

// checkShares looks whether the folders that the file gives a machine are there.
func (l *labFile) checkShares(env Env, m *lab.Machine) error {
	for i, s := range m.Shares {
		if err := wantFolder(inDir(l.dir(env), s.From)); err != nil {
			return lab.ErrorAt(l.title, l.text, err, "machines", m.Name, "shares", strconv.Itoa(i), "from")
		}
	}
	return nil
}

// checkPaths looks whether all folders and images of the host are there that the
// file names.
func (l *labFile) checkPaths(env Env) error {
	for _, name := range l.MachineNames() {
		if _, err := l.checkDisks(env, l.Machines[name]); err != nil {
			return err
		}
		if err := l.checkShares(env, l.Machines[name]); err != nil {
			return err
		}
	}
	for _, name := range l.NetworkNames() {
		for _, g := range l.Networks[name].Segments() {
			if g.DHCP.TFTP == "" {
				continue
			}
			path := []string{"networks", name}
			if g.VLAN != 0 {
				path = append(path, "vlans", strconv.Itoa(g.VLAN))
			}
			if err := wantFolder(inDir(l.dir(env), g.DHCP.TFTP)); err != nil {
				return lab.ErrorAt(l.title, l.text, err, append(path, "dhcp", "tftp")...)
			}
		}
	}
	return nil
}

// wantFolder looks whether path is a folder that can be read.
func wantFolder(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no folder %s", path)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", path)
	}
	if err := unix.Access(path, unix.R_OK|unix.X_OK); err != nil {
		return fmt.Errorf("you may not look into %s: %w", path, err)
	}
	return nil
}
