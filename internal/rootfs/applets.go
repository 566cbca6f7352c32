package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// maxProgram bounds what is read of one program into memory, in bytes.
const maxProgram = 256 << 20

// sbin holds the applets that live in /usr/sbin; all others go to /usr/bin.
var sbin = strings.Fields(`acpid adjtimex arp arping blkid blockdev brctl chroot crond depmod devmem dhcprelay
	dnsd ether-wake fbset fdformat fdisk findfs freeramdisk fsck fsfreeze fstrim getty halt hdparm httpd hwclock
	i2cdetect i2cdump i2cget i2cset i2ctransfer ifconfig ifdown ifenslave ifplugd ifup inetd init insmod ip
	ipaddr iplink ipneigh iproute iprule iptunnel klogd ldconfig loadfont loadkmap logread losetup lsmod mdev
	mim mkdosfs mke2fs mkfs.ext2 mkfs.minix mkfs.vfat mkswap modinfo modprobe nameif nbd-client nologin ntpd
	partprobe pivot_root poweroff rdate readahead readprofile reboot rmmod route run-init runlevel seedrng
	sendmail setconsole setlogcons slattach start-stop-daemon sulogin svlogd swapoff swapon switch_root sysctl
	syslogd tc telnetd tunctl tune2fs ubiattach ubidetach ubimkvol ubirename ubirmvol ubirsvol ubiupdatevol
	udhcpc udhcpc6 udhcpd uevent vconfig watchdog zcip`)

// unwanted applets would stand in for tools that they are no match for.
var unwanted = []string{"dpkg", "dpkg-deb", "rpm", "rpm2cpio", "linuxrc", "busybox", "[["}

// applets makes a link for each of busybox's commands that nothing else brings.
func (b *builder) applets() error {
	where, names, err := Applets(b.t)
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.Contains(unwanted, name) || b.provided(name) {
			continue
		}
		dir, target := "/usr/bin/", strings.TrimPrefix(where, "/usr/bin/")
		if slices.Contains(sbin, name) {
			dir, target = "/usr/sbin/", "../bin/"+target
		}
		if strings.HasPrefix(target, "/") || strings.HasPrefix(target, "../bin//") {
			target = where // busybox is somewhere unusual
		}
		if err := b.put(dir+name, tree.Symlink(target)); err != nil {
			return err
		}
		b.rep.Applets = append(b.rep.Applets, dir+name)
	}
	return nil
}

// provided reports whether a package brings a command of that name.
func (b *builder) provided(name string) bool {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin"} {
		if b.t.Get(real(b.t, path.Join(dir, name))) != nil {
			return true
		}
	}
	return false
}

// Applets finds busybox in a tree and names its commands, as it does itself
// with --list, by reading the table in the program: NUL-terminated names in
// order, with an empty one at the end. It works for every architecture.
func Applets(t *tree.Tree) (where string, names []string, err error) {
	for _, name := range []string{toolsDir + "/busybox", "/usr/bin/busybox", "/bin/busybox", "/sbin/busybox", "/usr/sbin/busybox"} {
		p, n, err := t.Resolve(name)
		if err != nil || n.Type() != tree.TypeRegular {
			continue
		}
		if n.Size() > maxProgram {
			return "", nil, &Error{Part: "file", Name: p, Err: fmt.Errorf("is larger than %d bytes", maxProgram)}
		}
		r, err := n.Open()
		if err != nil {
			return "", nil, &Error{Part: "file", Name: p, Err: err}
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return "", nil, &Error{Part: "file", Name: p, Err: err}
		}
		if names = appletTable(data); len(names) == 0 {
			return "", nil, &Error{Part: "file", Name: p, Err: errors.New("holds no table of busybox commands")}
		}
		return p, names, nil
	}
	return "", nil, &Error{Part: "package", Name: "busybox-static", Err: errors.New("is needed: its shell runs /init; add it, or busybox, to the packages")}
}

// appletTable finds the longest run of sorted names that starts as busybox's
// table does and holds a shell.
func appletTable(program []byte) []string {
	for _, start := range []string{"[\x00[[\x00", "[\x00a", "acpid\x00", "ar\x00", "arch\x00", "ash\x00"} {
		for rest := program; ; {
			i := bytes.Index(rest, []byte(start))
			if i < 0 {
				break
			}
			names := appletRun(rest[i:])
			if slices.Contains(names, "sh") && slices.Contains(names, "mount") {
				return names
			}
			rest = rest[i+1:]
		}
	}
	return nil
}

// appletRun reads NUL-terminated names for as long as they are in order.
func appletRun(b []byte) []string {
	var names []string
	last := ""
	for {
		i := bytes.IndexByte(b[:min(len(b), 33)], 0)
		if i <= 0 {
			return names
		}
		name := string(b[:i])
		if name <= last || strings.ContainsFunc(name, notApplet) {
			return names
		}
		names, last, b = append(names, name), name, b[i+1:]
	}
}

func notApplet(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("[_.+-", r))
}
