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

// fstab is for roots of every kind. A root in memory needs no tmpfs on /run, /tmp
// and /dev/shm: /init passes them over there. Nor is there anything to mount on
// /, which is why its line says noauto; a disk's gets the line's options all the
// same. /dev/root is a link that /init
// makes, to whichever disk has turned out to be the root.
const fstab = `# device	folder		type	options					dump pass
%s	/		auto	defaults,noauto				0 1
proc		/proc		proc	nosuid,nodev,noexec			0 0
sysfs		/sys		sysfs	nosuid,nodev,noexec			0 0
devpts		/dev/pts	devpts	gid=5,mode=620,ptmxmode=666,nosuid,noexec	0 0
tmpfs		/run		tmpfs	mode=755,nosuid,nodev			0 0
tmpfs		/tmp		tmpfs	mode=1777,nosuid,nodev			0 0
tmpfs		/dev/shm	tmpfs	mode=1777,nosuid,nodev			0 0
`

// inittab is that of an image without an identity: login prompts on what
// terminals there are. /init has nothing left to do when it was the first
// program; it is here for those who start a disk's /sbin/init.
const inittab = `# inittab of busybox's init: TERMINAL::ACTION:COMMAND
::sysinit:/init
` + "%s" + inittabTail

const inittabTail = `::ctrlaltdel:/usr/lib/wolffia/ctrlaltdel
::shutdown:/bin/umount -a -r
::restart:/sbin/init
`

// terminals is how many terminals of a machine may have a login prompt: two
// consoles of the kernel and, on a PC, four of the screen.
func (b *builder) terminals() int {
	switch b.Arch {
	case "amd64", "i386", "":
		return 6
	}
	return 2
}

func (b *builder) inittab() string {
	var lines strings.Builder
	for n := range b.terminals() {
		fmt.Fprintf(&lines, "::respawn:/usr/lib/wolffia/terminal %d\n", n+1)
	}
	return fmt.Sprintf(inittab, lines.String())
}

// securetty names the terminals that root may log in on.
const securetty = "console\ntty0\ntty1\ntty2\ntty3\ntty4\nttyS0\nttyS1\nttyS2\nttyS3\nttyAMA0\nttyAMA1\nhvc0\nhvc1\n"

// etc writes the files in /etc. keep means that a package's own file stays.
func (b *builder) etc() error {
	name := b.Hostname
	if name == "" {
		name = "wolffia"
	}
	root := b.Root
	if root == "" {
		root = "/dev/root"
	}
	for _, f := range []struct {
		name, text string
		keep       bool
	}{
		{"/etc/hostname", name + "\n", false},
		{"/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n", false},
		{"/etc/resolv.conf", "", true},
		{"/etc/fstab", fmt.Sprintf(fstab, root), false},
		{"/etc/inittab", b.inittab(), b.Tools == nil}, // a base's may be for another init
		{"/etc/mdev.conf", embedded("mdev.conf"), true},
		{"/etc/profile", embedded("profile"), true},
		{"/etc/os-release", b.osRelease(), true},
		{"/etc/nsswitch.conf", "passwd:\tfiles\ngroup:\tfiles\nshadow:\tfiles\nhosts:\tfiles dns\nnetworks:\tfiles\nprotocols:\tfiles\nservices:\tfiles\n", true},
		{"/etc/host.conf", "multi on\n", true},
		{"/etc/shells", "/bin/sh\n/bin/ash\n/bin/bash\n/bin/dash\n", true},
		{"/etc/securetty", securetty, true},
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
