package rootfs

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"wolffia/internal/tree"
)

// releases gives Debian's version numbers to code names, for os-release.
var releases = map[string]string{"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}

// fstab is for a root that lives in memory: /run, /tmp and /dev/shm need no
// tmpfs there.
const fstab = `# device	folder		type	options					dump pass
proc		/proc		proc	nosuid,nodev,noexec			0 0
sysfs		/sys		sysfs	nosuid,nodev,noexec			0 0
devpts		/dev/pts	devpts	gid=5,mode=620,ptmxmode=666,nosuid,noexec	0 0
`

// inittab is that of an image without an identity: a login prompt on the console.
const inittab = `# inittab of busybox's init: TERMINAL::ACTION:COMMAND
::respawn:/sbin/getty -L 0 console linux
` + inittabTail

const inittabTail = `::ctrlaltdel:/sbin/poweroff
::shutdown:/bin/umount -a -r
::restart:/sbin/init
`

// etc writes the files in /etc. keep means that a package's own file stays.
func (b *builder) etc() error {
	name := b.Hostname
	if name == "" {
		name = "wolffia"
	}
	for _, f := range []struct {
		name, text string
		keep       bool
	}{
		{"/etc/hostname", name + "\n", false},
		{"/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n", false},
		{"/etc/resolv.conf", "", true},
		{"/etc/fstab", fstab, false},
		{"/etc/inittab", inittab, true},
		{"/etc/mdev.conf", embedded("mdev.conf"), true},
		{"/etc/profile", embedded("profile"), true},
		{"/etc/os-release", b.osRelease(), true},
		{"/etc/nsswitch.conf", "passwd:\tfiles\ngroup:\tfiles\nshadow:\tfiles\nhosts:\tfiles dns\nnetworks:\tfiles\nprotocols:\tfiles\nservices:\tfiles\n", true},
		{"/etc/host.conf", "multi on\n", true},
		{"/etc/shells", "/bin/sh\n/bin/ash\n/bin/bash\n/bin/dash\n", true},
		{"/etc/securetty", "console\ntty0\ntty1\nttyS0\nttyAMA0\nhvc0\n", true},
		{"/etc/issue", "Debian GNU/Linux, made by wolffia \\n \\l\n\n", true},
		{"/etc/motd", "", true},
		{"/etc/protocols", "ip\t0\tIP\nicmp\t1\tICMP\ntcp\t6\tTCP\nudp\t17\tUDP\nipv6-icmp\t58\tIPv6-ICMP\n", true},
		{"/etc/services", "ssh\t22/tcp\ndomain\t53/tcp\ndomain\t53/udp\nhttp\t80/tcp\nntp\t123/udp\nhttps\t443/tcp\n", true},
	} {
		if err := b.write(f.name, 0o644, f.text, f.keep); err != nil {
			return err
		}
	}
	return b.certificates()
}

// certificates does what update-ca-certificates would: one file of all the
// certificates that the package ca-certificates brings.
func (b *builder) certificates() error {
	const dir, bundle = "/usr/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt"
	_, n, err := b.t.Resolve(dir)
	if err != nil || !n.IsDir() || b.has(bundle) {
		return nil
	}
	var all strings.Builder
	err = b.t.Walk(func(name string, n *tree.Node) error {
		if n.IsDir() && !strings.HasPrefix(dir+"/", strings.TrimSuffix(name, "/")+"/") && !strings.HasPrefix(name, dir+"/") {
			return fs.SkipDir
		}
		if !strings.HasPrefix(name, dir+"/") || n.IsDir() || path.Ext(name) != ".crt" {
			return nil
		}
		data, err := b.t.ReadFile(name, 1<<20)
		if err != nil {
			return err
		}
		all.Write(data)
		if len(data) > 0 && data[len(data)-1] != '\n' {
			all.WriteByte('\n')
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("collect certificates: %w", err)
	}
	return b.write(bundle, 0o644, all.String(), false)
}

func (b *builder) osRelease() string {
	var s strings.Builder
	s.WriteString("NAME=\"Debian GNU/Linux\"\nID=debian\n")
	title := "Debian GNU/Linux"
	if v := releases[b.Release]; v != "" {
		title = fmt.Sprintf("Debian GNU/Linux %s (%s)", v, b.Release)
		fmt.Fprintf(&s, "VERSION_ID=%q\nVERSION=%q\n", v, v+" ("+b.Release+")")
	}
	if b.Release != "" {
		fmt.Fprintf(&s, "VERSION_CODENAME=%s\n", b.Release)
	}
	fmt.Fprintf(&s, "PRETTY_NAME=%q\nHOME_URL=\"https://www.debian.org/\"\n", title)
	return s.String()
}
