package rootfs

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/spell"
	"wolffia/internal/tree"
)

// folders are those that a system has even when no package brings them.
var folders = []struct {
	name string
	perm uint32
}{
	{"/dev", 0o755}, {"/dev/pts", 0o755}, {"/dev/shm", 0o1777}, {"/etc", 0o755}, {"/home", 0o755},
	{"/media", 0o755}, {"/mnt", 0o755}, {"/opt", 0o755}, {"/proc", 0o555}, {"/root", 0o700},
	{"/root/.ssh", 0o700}, {"/run", 0o755}, {"/run/lock", 0o1777}, {"/run/wolffia", 0o755},
	{"/srv", 0o755}, {"/sys", 0o555}, {"/tmp", 0o1777}, {"/usr", 0o755}, {"/usr/bin", 0o755},
	{"/usr/lib", 0o755}, {"/usr/sbin", 0o755}, {"/usr/local/bin", 0o755}, {"/usr/local/sbin", 0o755},
	{"/usr/share", 0o755}, {"/var/cache", 0o755}, {"/var/lib", 0o755}, {"/var/log", 0o755},
	{"/var/mail", 0o755}, {"/var/spool/cron/crontabs", 0o700}, {"/var/tmp", 0o1777},
	{"/etc/dropbear", 0o755}, {"/etc/wolffia", 0o755}, {"/etc/wolffia/services", 0o755},
	{"/usr/lib/wolffia/dev/pts", 0o755}, {"/usr/lib/wolffia/dev/shm", 0o1777},
}

// merged are the links of merged /usr.
var merged = [][2]string{{"/bin", "usr/bin"}, {"/sbin", "usr/sbin"}, {"/lib", "usr/lib"}}

// links are further ones.
var links = [][2]string{
	{"/var/run", "/run"}, {"/var/lock", "/run/lock"},
	{"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"}, {"/dev/stderr", "/proc/self/fd/2"},
	{"/etc/mtab", "/proc/mounts"},
	{"/usr/lib/wolffia/dev/fd", "/proc/self/fd"}, {"/usr/lib/wolffia/dev/stdin", "/proc/self/fd/0"},
	{"/usr/lib/wolffia/dev/stdout", "/proc/self/fd/1"}, {"/usr/lib/wolffia/dev/stderr", "/proc/self/fd/2"},
}

// devices are for the moments before devtmpfs is mounted, and for kernels
// without it; numbers from Documentation/admin-guide/devices.txt of Linux.
var devices = []struct {
	name               string
	kind, perm         uint32
	major, minor, many uint32 // many > 0: nodes name0 to name(many-1)
	gid                uint32
}{
	{"/dev/console", tree.TypeChar, 0o600, 5, 1, 0, gidTTY},
	{"/dev/null", tree.TypeChar, 0o666, 1, 3, 0, 0},
	{"/dev/zero", tree.TypeChar, 0o666, 1, 5, 0, 0},
	{"/dev/full", tree.TypeChar, 0o666, 1, 7, 0, 0},
	{"/dev/random", tree.TypeChar, 0o666, 1, 8, 0, 0},
	{"/dev/urandom", tree.TypeChar, 0o666, 1, 9, 0, 0},
	{"/dev/kmsg", tree.TypeChar, 0o600, 1, 11, 0, 0},
	{"/dev/tty", tree.TypeChar, 0o666, 5, 0, 0, gidTTY},
	{"/dev/ptmx", tree.TypeChar, 0o666, 5, 2, 0, gidTTY},
	{"/dev/tty", tree.TypeChar, 0o620, 4, 0, 5, gidTTY},
	{"/dev/ttyS", tree.TypeChar, 0o660, 4, 64, 4, gidDialout},
	{"/dev/hvc", tree.TypeChar, 0o660, 229, 0, 2, gidDialout},
	{"/dev/ttyAMA", tree.TypeChar, 0o660, 204, 64, 2, gidDialout},
}

// skeleton makes the folders, links and device nodes.
func (b *builder) skeleton() error {
	for _, d := range []string{"/usr/bin", "/usr/sbin", "/usr/lib"} {
		if err := b.mkdir(d); err != nil {
			return err
		}
	}
	// Some of the folders lie below links of merged /usr.
	for _, step := range []func() error{
		func() error { return b.makeLinks(merged) }, b.makeFolders,
		func() error { return b.makeLinks(links) }, b.makeDevices,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) makeLinks(links [][2]string) error {
	for _, l := range links {
		if b.t.Get(l[0]) != nil {
			continue
		}
		if err := b.put(l[0], tree.Symlink(l[1])); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) makeDevices() error {
	for _, d := range devices {
		for i := range max(d.many, 1) {
			name := d.name
			if d.many > 0 {
				name += strconv.Itoa(int(i))
			}
			n := tree.Device(d.kind, d.perm, d.major, d.minor+i)
			n.GID = d.gid
			if err := b.put(name, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) makeFolders() error {
	for _, f := range folders {
		if b.has(f.name) {
			continue
		}
		if err := b.mkdir(f.name); err != nil {
			return err
		}
		_, n, err := b.t.Resolve(f.name)
		if err != nil {
			return err
		}
		n.Mode = tree.TypeDir | f.perm
	}
	return nil
}

// boot places /init and what it calls.
func (b *builder) boot() error {
	for _, f := range []struct{ to, from string }{
		{"/init", "init"},
		{"/usr/lib/wolffia/session", "session"},
		{"/usr/lib/wolffia/login", "login"},
		{"/usr/lib/wolffia/poweroff", "poweroff"},
		{"/usr/lib/wolffia/disk", "disk"},
		{"/usr/lib/wolffia/terminal", "terminal"},
		{"/usr/lib/wolffia/shell", "shell"},
		{"/usr/lib/wolffia/ports", "ports"},
		{"/etc/udhcpc/default.script", "udhcpc"},
	} {
		if err := b.place(f.to, f.from); err != nil {
			return err
		}
	}
	for _, name := range quick {
		if err := b.put("/usr/sbin/"+name, tree.Symlink("../lib/wolffia/poweroff")); err != nil {
			return err
		}
	}
	// Where busybox's acpid looks what the power button does.
	if err := b.write("/etc/acpi/PWRF/00000080", 0o755, "#!/bin/sh\nexec /sbin/poweroff\n", true); err != nil {
		return err
	}
	if err := b.put("/usr/lib/wolffia/ctrlaltdel", tree.Symlink("poweroff")); err != nil {
		return err
	}
	return b.init()
}

// init places the single script, where that is asked for, in the place of
// busybox's link.
func (b *builder) init() error {
	switch b.Init {
	case "", InitBusybox:
		return nil
	case InitScript:
		if err := b.place("/usr/lib/wolffia/single", "single"); err != nil {
			return err
		}
		if b.Tools != nil {
			return b.put(toolsDir+"/init", tree.Symlink("../single"))
		}
		return b.put("/usr/sbin/init", tree.Symlink("../lib/wolffia/single"))
	}
	return fmt.Errorf("init %q is neither %s nor %s", b.Init, InitBusybox, InitScript)
}

// interfaces makes the folders that ifup looks into, where it is used.
func (b *builder) interfaces() error {
	if !b.has("/etc/network/interfaces") {
		return nil
	}
	for _, event := range []string{"pre-up", "up", "down", "post-down"} {
		if err := b.mkdir("/etc/network/if-" + event + ".d"); err != nil {
			return err
		}
	}
	return nil
}

// knownServices are those that a script is made for when no package or
// file brings one: the program that has to be in the tree, and its command.
var knownServices = map[string]struct{ program, command string }{
	// The machine's own host key is used; -R makes one where there is none.
	"dropbear": {"/usr/sbin/dropbear", "/usr/sbin/dropbear -R"},
	"syslogd":  {"/sbin/syslogd", "/sbin/syslogd -C64"},
	"klogd":    {"/sbin/klogd", "/sbin/klogd"},
	"crond":    {"/usr/sbin/crond", "/usr/sbin/crond"},
	"telnetd":  {"/usr/sbin/telnetd", "/usr/sbin/telnetd"},
	"httpd":    {"/usr/sbin/httpd", "/usr/sbin/httpd -h /var/www"},
}

// KnownServices names the services that need no script of their own, sorted.
func KnownServices() []string {
	var names []string
	for n := range knownServices {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// services lists them for /init and makes the scripts that are missing.
func (b *builder) services() error {
	var list strings.Builder
	for _, name := range b.Services {
		if err := b.service(name); err != nil {
			return &Error{Part: "service", Name: name, Err: err}
		}
		list.WriteString(name + "\n")
	}
	if list.Len() == 0 {
		return nil
	}
	return b.write("/etc/wolffia/start", 0o644, list.String(), false)
}

func (b *builder) service(name string) error {
	if name == "" || name != path.Base(name) || strings.ContainsAny(name, " \t\n") {
		return errors.New("is not the name of a service")
	}
	if b.has("/etc/wolffia/services/"+name) || b.has("/etc/init.d/"+name) && name != "dropbear" {
		return nil
	}
	known, ok := knownServices[name]
	if !ok {
		text := "has neither /etc/wolffia/services/" + name + " nor /etc/init.d/" + name + " in the image"
		if near := spell.Nearest(name, KnownServices()); near != "" {
			text += "; did you mean " + near + "?"
		}
		return errors.New(text)
	}
	if !b.has(known.program) {
		return errors.New("no package brings " + known.program)
	}
	return b.write("/etc/wolffia/services/"+name, 0o755, "#!/bin/sh\nexec "+known.command+"\n", false)
}
