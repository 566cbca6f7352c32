package machinetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wolffia/internal/machine"
)

// Shares is the part of the suite about folders of the host, for backends and
// fixtures that can have them: both sides work on the same files, and the guest
// gets at nothing else. The fixtures have the modules of Guest.Share as well.
func Shares(t *testing.T, b machine.Backend, f Fixtures) {
	s := suite{b, f}
	t.Run("ReadAndWrite", s.shareReadWrite)
	t.Run("StaysInside", s.shareStaysInside)
	t.Run("Ends", s.shareEnds)
}

// mount is the command that mounts a share.
func (s suite) mount(tag, at string) string {
	m := s.b.Guest(s.f.Arch).Share
	command := "mount -t " + m.Type
	if o := m.Options(tag); o != "" {
		command += " -o " + o
	}
	return command + " " + tag + " " + at
}

// folder makes a folder with files, at a path that holds what separates names
// elsewhere.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "folder, with: odd=name")
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shareReadWrite: what one side writes the other reads, at once; what the guest's
// root makes is the person's; and a folder that is only to be read is.
func (s suite) shareReadWrite(t *testing.T) {
	spec := s.spec(t, s.mount("src", "/tmp")+" && mkdir /fix && "+s.mount("fix", "/fix")+`
cat /tmp/word; ls /tmp/sub /tmp/many | wc -l
echo written >/tmp/new; echo more >>/tmp/word; mkdir /tmp/dir; echo '#!/bin/busybox sh
echo it runs' >/tmp/dir/script; chmod 750 /tmp/dir/script; /tmp/dir/script
mv /tmp/sub/a /tmp/dir/b; rm /tmp/sub/c; ln -s new /tmp/link; cat /tmp/link
dd if=/dev/zero of=/tmp/big bs=64k count=16 2>/dev/null; stat -c '%s %a' /tmp/big
cat /fix/word; mount -o remount,rw /fix; echo x >/fix/word || echo kept; echo x >/fix/new || echo kept; rm -f /fix/word || echo kept; chmod 777 /fix/word || echo kept; cat /fix/word
echo ready >$STATUS; read -r line; cat /tmp/word /tmp/from-host; poweroff -f`)
	files := map[string]string{"word": "hello\n", "sub/a": "a\n", "sub/c": "c\n"}
	for i := range 300 {
		files[fmt.Sprintf("many/file %d", i)] = ""
	}
	src, fix := folder(t, files), folder(t, map[string]string{"word": "fixed\n"})
	spec.Shares = []machine.Share{{Tag: "src", Path: src}, {Tag: "fix", Path: fix, ReadOnly: true}}
	m := s.start(t, spec)
	until(t, m.Status(), "ready\n")
	want := map[string]string{"word": "hello\nmore\n", "new": "written\n", "dir/b": "a\n", "big": strings.Repeat("\x00", 1<<20)}
	for name, text := range want {
		if b, err := os.ReadFile(filepath.Join(src, name)); string(b) != text {
			t.Errorf("the host sees %.40q in %s, %v", b, name, err)
		}
	}
	info, err := os.Lstat(filepath.Join(src, "dir/script"))
	if err != nil || info.Mode() != 0o750 || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
		t.Errorf("%v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(src, "link")); to != "new" {
		t.Errorf("a link to %q, %v", to, err)
	}
	if _, err := os.Lstat(filepath.Join(src, "sub/c")); err == nil {
		t.Error("a file that the guest has removed is there")
	}
	for name, text := range map[string]string{"word": "changed by the host\n", "from-host": "made by the host\n"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(t, m, "\r")
	out := strings.ReplaceAll(output(t, m), "\r", "")
	clean(t, m)
	for _, want := range []string{
		"hello\n", "\n305\nit runs\nwritten\n1048576 644\nfixed\n", "kept\n", "\nfixed\n", "changed by the host\nmade by the host\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("console %q, want %q", out, want)
		}
	}
	if n := strings.Count(out, "kept\n"); n != 4 {
		t.Errorf("console %q: %d of 4 changes were refused", out, n)
	}
	if b, err := os.ReadFile(filepath.Join(fix, "word")); string(b) != "fixed\n" {
		t.Errorf("the folder that is only to be read has %q, %v", b, err)
	}
}

// shareStaysInside tries ways out of a shared folder: links of the host's and the
// guest's making, "..", mounts of what lies above, and folders that become links
// after the guest has looked at them.
func (s suite) shareStaysInside(t *testing.T) {
	secret := folder(t, map[string]string{"secret": "found\n"})
	g := s.b.Guest(s.f.Arch).Share
	other := strings.ReplaceAll(s.mount("src", "/other"), "src", "$at")
	spec := s.spec(t, s.mount("src", "/tmp")+` && echo mounted; mkdir /other
SECRET="`+secret+`"
cat /tmp/absolute/secret /tmp/relative/secret "/tmp/../../../../../..$SECRET/secret" "/tmp/d/../../$SECRET/secret"
ln -s "$SECRET" /tmp/mine; cat /tmp/mine/secret
for at in .. ../.. src/.. src/../.. ../../../../../../../../..$SECRET ..$SECRET $SECRET src/mine src/absolute src/d/../../..$SECRET; do
	`+other+` 2>/dev/null || continue
	cat /other/secret "/other/$SECRET/secret" /other/etc/passwd /other/etc/hostname
	umount /other
done
cd /tmp/e; cat inside
if at=src; `+other+` 2>/dev/null; then
	mv /other/e /other/gone; ln -s "$SECRET" /other/e; cat secret; echo x >new; mkdir newdir; rm -f secret; cat /tmp/e/secret; umount /other
fi
cd /tmp/d; cat inside; echo ready >$STATUS; read -r line
cat secret; echo x >new; mkdir newdir; rm -f secret; cat ./secret /tmp/d/secret; ls /tmp/d/ .
cd /; poweroff -f`)
	src := folder(t, map[string]string{"d/inside": "inside\n", "e/inside": "inside\n"})
	for name, to := range map[string]string{"absolute": secret, "relative": "../../../../../../../../../../.." + secret} {
		if err := os.Symlink(to, filepath.Join(src, name)); err != nil {
			t.Fatal(err)
		}
	}
	spec.Shares = []machine.Share{{Tag: "src", Path: src}}
	m := s.start(t, spec)
	until(t, m.Status(), "ready\n")
	if err := os.Rename(filepath.Join(src, "d"), filepath.Join(src, "was")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(src, "d")); err != nil {
		t.Fatal(err)
	}
	write(t, m, "\r")
	out := output(t, m)
	clean(t, m)
	if strings.Contains(out, "found") || strings.Contains(out, "root:") || strings.Count(out, "inside\r\n") < 2 || !strings.HasPrefix(out, "mounted\r\n") {
		t.Errorf("%s: console %q", g.Type, out)
	}
	left, err := os.ReadDir(secret)
	if err != nil || len(left) != 1 || left[0].Name() != "secret" {
		t.Errorf("what lies outside is changed: %v, %v", left, err)
	}
}

// shareEnds: a machine with shares, and disks besides, stops and is killed as any
// other, and starts again in the same folder.
func (s suite) shareEnds(t *testing.T) {
	spec := s.spec(t, s.mount("src", "/tmp")+` && cat /tmp/word; head -c 5 ${DISK}a; head -c 5 ${DISK}b; echo; echo over | dd of=${DISK}a conv=notrunc,fsync 2>/dev/null
`+trapInit)
	spec.Shares = []machine.Share{{Tag: "src", Path: folder(t, map[string]string{"word": "hello\n"})}}
	spec.Disks = []machine.Disk{{Path: diskImage(t, "first"), Overlay: filepath.Join(t.TempDir(), "volume")}, {Path: diskImage(t, "secnd")}}
	for i, first := range []string{"first", "over\r\n"} {
		m := s.start(t, spec)
		until(t, m.Status(), "ready\n")
		if i == 0 {
			m.Kill()
			m.Wait()
		} else if err := m.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if out := output(t, m); !strings.HasPrefix(out, "hello\r\n"+first+"secnd\r\n") {
			t.Errorf("console %q", out)
		}
	}
}
