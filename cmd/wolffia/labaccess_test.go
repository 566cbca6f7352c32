package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wolffia/internal/tooltest"
)

// TestLabAccess enters machines in every way there is.
func TestLabAccess(t *testing.T) {
	parallel(t)
	ssh := tooltest.Require(t, "ssh", "openssh-client")
	p := newPerson(t)
	l := newLab(t, p, strings.Replace(small, "dropbear-bin", "dropbear-bin, openssh-sftp-server", 1)+"networks: {lan: }\nmachines: {anna: {networks: [lan]}, bert: }\n")
	l.do("up")

	// Streams and statuses.
	o := l.try(t, call{dir: l.dir, stdin: strings.NewReader("in")}, "exec", "anna", "--", "sh", "-c", "cat; echo err >&2; exit 7")
	if o.status != 7 || o.out != "in" || o.err != "err\n" {
		t.Error(o)
	}
	// Files, folders, from machine to machine, pipes; a machine without networks.
	if err := os.MkdirAll(filepath.Join(l.dir, "tree/deep"), 0o777); err != nil {
		t.Fatal(err)
	}
	p.write(t, filepath.Join(l.dir, "tree/deep/file"), "content")
	os.Chmod(filepath.Join(l.dir, "tree/deep/file"), 0o751)
	os.Symlink("deep/file", filepath.Join(l.dir, "tree/link"))
	l.do("cp", "tree", "wolffia.yaml", "anna:/root/")
	l.do("cp", "anna:/root/tree", "bert:/tmp/copy")
	l.do("cp", "bert:/tmp/copy/deep/file", "back")
	if got := l.in("bert", "cd /tmp/copy; stat -c %a deep/file; readlink link"); got != "751\ndeep/file\n" {
		t.Error(got)
	}
	if data, _ := os.ReadFile(filepath.Join(l.dir, "back")); string(data) != "content" {
		t.Errorf("%q", data)
	}
	if got := l.run(t, call{dir: l.dir, stdin: strings.NewReader("piped")}, "cp", "-", "anna:/tmp/piped").out + l.do("cp", "anna:/tmp/piped", "-"); got != "piped" {
		t.Errorf("%q", got)
	}
	for _, args := range [][]string{{"cp", "nothing", "anna:/tmp"}, {"cp", "tree", "tree2"}, {"cp", "tree", "anna:/nowhere/"}, {"exec", "anna"}} {
		l.fails(2, args...)
	}
	if e := l.fails(1, "cp", "anna:/nothing", "."); !strings.Contains(e, "No such file") {
		t.Error(e)
	}
	// OpenSSH and scp by the printed configuration. They want a user with a name.
	named := *p
	named.uid = os.Getuid()
	p.write(t, filepath.Join(l.dir, "conf"), l.do("ssh-config"))
	for _, argv := range [][]string{
		{ssh, "-F", "conf", "anna", "echo by ssh"},
		{"scp", "-q", "-F", "conf", "anna:/root/tree/deep/file", "by-scp"},
	} {
		o := named.try(t, call{dir: l.dir, program: argv[0]}, argv[1:]...)
		if o.status != 0 {
			t.Error(o)
		}
	}
	l.do("restart", "anna")
	if o := named.try(t, call{dir: l.dir, program: ssh}, "-F", "conf", "anna", "echo again"); o.out != "again\n" {
		t.Error(o)
	}
	// A login has a terminal, and the shell's status; a command has its own.
	login := l.atTerminalIn(t, l.dir, "ssh", "anna")
	login.out.expect(t, "anna:~# ")
	login.write(t, "tty; stty size\r")
	login.out.expect(t, `/dev/pts/\d+\r\n30 100\r\n`)
	login.write(t, "exit 3\r")
	login.left(t, 3)
	if o := l.try(t, call{dir: l.dir, stdin: strings.NewReader("echo by pipe; exit 3\n")}, "ssh", "anna"); o.status != 3 || o.out != "by pipe\n" {
		t.Error(o)
	}
	if o := l.try(t, call{dir: l.dir, stdin: strings.NewReader("echo to its end\n")}, "ssh", "anna"); o.status != 0 || o.out != "to its end\n" {
		t.Error(o)
	}
	if o := l.try(t, call{dir: l.dir}, "ssh", "anna", "--", "sh", "-c", "exit 7"); o.status != 7 {
		t.Error(o)
	}
	// Two look at one console, and a log is followed.
	x, y := l.atTerminalIn(t, l.dir, "console", "anna"), l.atTerminalIn(t, l.dir, "console", "anna")
	log := l.start(t, call{dir: l.dir}, "logs", "-F", "anna")
	x.write(t, "echo to $((1+1)) viewers\r")
	for _, out := range []*transcript{x.out, y.out, log.out} {
		out.expect(t, "to 2 viewers")
	}
	x.write(t, "\x1dq")
	x.left(t, 0)
	y.write(t, "echo still $((1+1)) here\r")
	y.out.expect(t, "still 2 here")
	y.write(t, "\x1dq")
	y.left(t, 0)
	l.comesBack("anna")
}

// comesBack leaves a machine's console and attaches to it again, which shows what was
// said last, and goes on.
func (l *lab) comesBack(machine string) {
	l.t.Helper()
	said := ""
	for _, word := range []string{"before", "after"} {
		x := l.atTerminalIn(l.t, l.dir, "console", machine)
		x.out.expect(l.t, said)
		said = word + " 2 shells"
		x.write(l.t, "echo "+word+" $((1+1)) shells\r")
		x.out.expect(l.t, said)
		x.write(l.t, "\x1dq")
		x.left(l.t, 0)
	}
}

// TestLabPrivate: a lab's supervisor answers nobody but its owner and root.
func TestLabPrivate(t *testing.T) {
	parallel(t)
	if os.Getuid() != 0 {
		t.Fatal("two accounts are needed: run this test as root")
	}
	p := newPerson(t)
	l := newLab(t, p, small+"networks: {lan: }\nmachines: {anna: {networks: [lan]}}\n")
	l.do("up")
	sockets, _ := filepath.Glob(filepath.Join(p.home, ".local/state/wolffia/labs/*/api.sock"))
	if len(sockets) != 1 {
		t.Fatal(sockets)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Dir(sockets[0]), &st); err != nil || st.Mode&0o7777 != 0o700 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
	// Even where the modes let them in.
	for dir := sockets[0]; strings.HasPrefix(dir, p.home+"/"); dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o777)
	}
	curl := tooltest.Require(t, "curl", "curl")
	ask := func(uid uint32) string {
		cmd := exec.Command(curl, "-sS", "--unix-socket", sockets[0], "http://x/v1/info")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := ask(nobodyElse + 1); strings.Contains(out, "pid") {
		t.Errorf("somebody else was answered: %s", out)
	}
	for _, uid := range []uint32{0, nobodyElse} {
		if out := ask(uid); !strings.Contains(out, `"pid"`) {
			t.Errorf("user %d was not answered: %s", uid, out)
		}
	}
}

// TestLabsApart has two labs of the same name side by side.
func TestLabsApart(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	text := "name: twin\n" + small + "networks: {lan: }\nmachines: {anna: {networks: [lan]}}\n"
	var labs []*lab
	for _, name := range []string{"one", "two"} {
		l := &lab{person: p, t: t, dir: p.folder(t, name)}
		l.file(text)
		t.Cleanup(func() { l.try(t, call{dir: l.dir}, "down") })
		labs = append(labs, l)
		l.do("up")
		l.in("anna", "echo "+name+" >/root/name")
	}
	for i, l := range labs {
		if got := l.in("anna", "cat /root/name"); got != []string{"one\n", "two\n"}[i] {
			t.Errorf("%q", got)
		}
	}
	if e := labs[0].fails(2, "exec", "--lab", "twin", "anna", "--", "true"); !strings.Contains(e, "several labs are called") {
		t.Error(e)
	}
	labs[0].do("down")
	labs[1].in("anna", "true")
	if got := p.run(t, call{}, "exec", "--lab", "twin", "anna", "--", "cat", "/root/name").out; got != "two\n" {
		t.Errorf("%q", got)
	}
}
