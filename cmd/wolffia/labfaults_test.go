package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// pair is a lab of two machines.
const pair = small + "networks: {lan: }\nmachines: {anna: {networks: [lan]}, bert: {networks: [lan]}}\n"

// checkJournals looks for what supervisors never say: that they panicked, even if
// only one request of a person's noticed, or, with the race detector, a race.
func (l *lab) checkJournals() {
	journals, _ := filepath.Glob(filepath.Join(l.home, ".local/state/wolffia/labs/*/journal*"))
	for _, path := range journals {
		data, _ := os.ReadFile(path)
		for _, bad := range []string{"panic: ", "panic serving", "DATA RACE", "fatal error: "} {
			if bytes.Contains(data, []byte(bad)) {
				l.t.Errorf("%s in %s", bad, clip(string(data)))
			}
		}
	}
}

// atOnce runs wolffia with each of the argument lists at the same time, the later
// ones a little later, and gives how they ended.
func (l *lab) atOnce(calls ...[]string) []outcome {
	l.t.Helper()
	out := make([]outcome, len(calls))
	var running sync.WaitGroup
	for i, args := range calls {
		running.Go(func() { out[i] = l.try(l.t, call{dir: l.dir, limit: cold}, args...) })
	}
	running.Wait()
	return out
}

// TestLabStartsAndEnds has commands that start and end one lab meet: each does
// what it says, and none finds the lab half there.
func TestLabStartsAndEnds(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, pair)
	up, down := []string{"up"}, []string{"down"}
	for _, o := range l.atOnce(up, up, up) {
		if o.status != 0 {
			t.Error(o)
		}
	}
	l.in("anna", "ping -c 1 -W 5 bert")
	// A lab that is down is gone, at once.
	l.do("down")
	if out := l.do("ps"); !strings.Contains(out, "no lab is up") {
		t.Error(out)
	}
	for round := range 3 {
		l.do("up")
		both := l.atOnce(down, up)
		if both[0].status != 0 || both[1].status != 0 {
			t.Errorf("round %d: %v\n%v", round, both[0], both[1])
		}
		for _, o := range l.atOnce(down, down) { // either may find nothing to do
			if o.status > 1 {
				t.Errorf("round %d: %v", round, o)
			}
		}
		if o := l.atOnce(up, down)[0]; o.status != 0 && !strings.Contains(o.err, "down") && !strings.Contains(o.err, "does not answer") {
			t.Errorf("round %d: %v", round, o)
		}
		l.try(t, call{dir: l.dir}, "down")
		if out := l.do("ps"); !strings.Contains(out, "no lab is up") {
			t.Errorf("round %d: %s", round, out)
		}
	}
	// A person who interrupts leaves nothing behind, and what is asked twice to end
	// ends.
	l.file(strings.Replace(pair, "bert: {", `bert: {ready: {command: "sleep 1000"}, `, 1))
	started := l.start(t, call{dir: l.dir}, "up")
	started.err.expect(t, "check bert: sleep 1000")
	started.Process.Signal(syscall.SIGINT)
	if status := started.end(t); status != 130 {
		t.Errorf("status %d: %s", status, started.err)
	}
	if out := l.do("ps"); !strings.Contains(out, "no lab is up") {
		t.Error(out)
	}
}

// TestLabNotReady: what hangs is told of, in time, and can be entered meanwhile.
func TestLabNotReady(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), strings.Replace(pair, "bert: {", `bert: {ready: {command: "sleep 1000", timeout: 3s}, `, 1))
	e := l.fails(125, "up")
	if !strings.Contains(e, `the command "sleep 1000" did not end well within 3s`) || !strings.Contains(e, "bert.pcapng") || strings.Contains(e, `"anna"`) {
		t.Error(e)
	}
	for _, line := range strings.Split(e, "\n") {
		if name, path, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "log" {
			if _, err := os.Stat(strings.TrimSpace(path)); err != nil {
				t.Errorf("the log that is named is gone: %v", err)
			}
		}
	}
	// The same file again tries again; a better one does better.
	l.fails(125, "up")
	if plan := l.do("up", "--dry-run"); plan != "start machine bert: it is failed\n" {
		t.Error(plan)
	}
	l.file(pair)
	l.do("up")
	if _, m := l.ps(); m["bert"].State != "ready" || m["anna"].Restarts != 0 {
		t.Errorf("%+v", m)
	}
}

// TestLabFileGone breaks, removes and renames the file of a lab that is up: what
// runs can be looked at and ended all the same.
func TestLabFileGone(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, pair)
	other := &lab{person: p, t: t, dir: p.folder(t, "other")} // so that there is not only one
	other.file(pair)
	t.Cleanup(func() { other.try(t, call{dir: other.dir}, "down") })
	other.do("up")
	file := filepath.Join(l.dir, "wolffia.yaml")
	for what, spoil := range map[string]func(){
		"broken":  func() { l.file("machines: [") },
		"removed": func() { os.Remove(file) },
		"moved":   func() { os.Rename(file, filepath.Join(l.dir, "moved.yaml")) },
		"renamed": func() { l.file("name: another\n" + pair) },
		"a folder": func() {
			os.Remove(file)
			os.Mkdir(file, 0o755)
		},
	} {
		l.file(pair)
		l.do("up")
		spoil()
		l.in("anna", "echo "+what)
		if out := l.do("logs", "anna"); !strings.Contains(out, "anna") {
			t.Errorf("%s: %q", what, out)
		}
		if out := l.do("ps", "-f", "wolffia.yaml"); strings.Count(out, "ready") != 2 {
			t.Errorf("%s: %s", what, out)
		}
		if e := l.fails(2, "up"); what == "renamed" && !strings.Contains(e, `is up as "lab", and the file calls it "another" now; end that one first: wolffia down`) {
			t.Error(e)
		}
		l.do("down", "-f", "wolffia.yaml")
		os.RemoveAll(file)
	}
	if out := l.do("ps"); strings.Count(out, "ready") != 2 {
		t.Errorf("the other lab: %s", out)
	}
}

// TestLabSupervisorStopped: commands used to wait for ever, without a word, for a
// supervisor that does not answer.
func TestLabSupervisorStopped(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), pair)
	l.do("up")
	pid, _ := l.ps()
	syscall.Kill(pid, syscall.SIGSTOP)
	defer syscall.Kill(pid, syscall.SIGCONT)
	want := fmt.Sprintf("process %d, has not answered", pid)
	results := l.atOnce([]string{"ps"}, []string{"exec", "anna", "--", "true"}, []string{"down"}, []string{"up"})
	for i, status := range []int{0, 125, 1, 1} {
		if o := results[i]; o.status != status || !strings.Contains(o.out+o.err, want) || !strings.Contains(o.out+o.err, "kill -CONT") {
			t.Error(o)
		}
	}
	syscall.Kill(pid, syscall.SIGCONT)
	l.in("anna", "true")
}

// TestLabMachineKilled: a machine's process that is killed from outside, a guest
// that powers off, and one that floods are nothing to the others.
func TestLabMachineKilled(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	file := strings.Replace(pair, "lan: }", "lan: {mtu: 9000}}", 1)
	l := newLab(t, p, file)
	l.do("up")
	l.in("anna", "echo mine >/root/life")
	for pid, line := range p.processes() {
		if strings.Contains(line, "wolffia-uml/bert") && !strings.Contains(line, "keeper") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	eventually(t, patience, "bert failed", func() bool {
		_, m := l.ps()
		return m["bert"].State == "failed" && strings.Contains(m["bert"].Error, "killed")
	})
	l.do("up")
	l.in("bert", "ping -c 1 -W 5 anna")
	l.try(t, call{dir: l.dir}, "exec", "bert", "--", "poweroff")
	eventually(t, patience, "bert stopped", func() bool {
		_, m := l.ps()
		return m["bert"].State == "stopped"
	})
	l.do("up")
	for pid, line := range p.processes() {
		if strings.HasPrefix(line, "wolffia-keeper") {
			syscall.Kill(pid, syscall.SIGKILL) // which holds them all
		}
	}
	eventually(t, patience, "both failed", func() bool {
		_, m := l.ps()
		return m["anna"].State == "failed" && m["bert"].State == "failed" && strings.Contains(m["anna"].Error, "killed")
	})
	// With the race detector in it, it would carry a tenth of what comes.
	l.do("down")
	l.file(strings.Replace(file, "bert: {", "carl: {networks: [lan]}, bert: {", 1))
	l.run(t, call{dir: l.dir, program: p.plain(t), limit: cold}, "up")
	l.in("anna", "echo mine >/root/life")
	l.flooded("bert", "anna", "carl")
	if out := l.in("anna", "cat /root/life"); out != "mine\n" {
		t.Error(out)
	}
	l.do("restart", "bert")
	l.in("bert", "ping -c 1 -W 5 anna")
}

// flooded has one machine send whatever a hostile one can, and all that a console
// takes, while two others work with each other and with the gateway.
func (l *lab) flooded(hostile, one, other string) {
	l.t.Helper()
	flood := filepath.Join(l.dir, "flood")
	build := exec.Command("go", "build", "-o", flood, "./testdata/flood")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		l.t.Fatalf("go build: %v\n%s", err, out)
	}
	l.do("cp", "flood", hostile+":/flood")
	pid, _ := l.ps()
	before := resident(l.t, pid)
	flooding := l.start(l.t, call{dir: l.dir}, "exec", hostile, "--", "sh", "-ec", fmt.Sprintf(`
		for to in 10.0.2.2 %s %s; do ping -4 -c 1 -W 5 $to >/dev/null; done
		yes flood >/dev/console &
		exec /flood eth0`, one, other))
	flooding.out.expect(l.t, "floods")
	// What goes on meanwhile is done again until there was a flood to withstand.
	for first := l.link("lan", hostile+"/eth0").Out.Frames; l.link("lan", hostile+"/eth0").Out.Frames < first+20_000; {
		listening := l.start(l.t, call{dir: l.dir}, "exec", other, "--", "sh", "-c", "[ -p /tmp/f ] || mkfifo /tmp/f; exec 9<>/tmp/f; nc -l -p 7000 <&9 | sha256sum & until netstat -ltn | grep -q :7000; do usleep 10000; done; echo listens; wait")
		listening.out.expect(l.t, "listens")
		out := l.in(one, fmt.Sprintf(`
			seq 500000 | tee /tmp/stream | nc %[1]s 7000 &
			ping -4 -q -c 30 -i 0.1 -W 5 10.0.2.2 >/tmp/near &
			ping -4 -q -c 30 -i 0.1 -W 5 %[1]s >/tmp/far &
			printf '#!/bin/sh\n[ "$1" != bound ] || echo leased $ip\n' >/tmp/bound; chmod +x /tmp/bound
			udhcpc -f -q -n -t 20 -T 1 -i eth0 -s /tmp/bound
			nslookup -retry=10 -timeout=1 %[1]s.lan 10.0.2.3
			wait; cat /tmp/near /tmp/far; sha256sum </tmp/stream`, other))
		sum := out[strings.LastIndexByte(strings.TrimSuffix(out, "\n"), '\n')+1:]
		if listening.end(l.t); listening.out.String() != "listens\n"+sum {
			l.t.Errorf("%s: %s of the stream, which is %s", other, listening.out, sum)
		}
		for _, want := range []string{"leased 10.0.2.", "Name:\t" + other + ".lan\nAddress: 10.0.2."} {
			if !strings.Contains(out, want) {
				l.t.Errorf("no %q in %s", want, out)
			}
		}
		pings := lossLine.FindAllStringSubmatch(out, -1)
		if len(pings) != 2 {
			l.t.Fatal(out)
		}
		// The gateway owes answers. Of a machine that is flooded itself the kernel is
		// busy with the flood's requests: on a busy host a capture had all sixty pings
		// come to its card, and eight answers leave it. That the switch lets others
		// through to it the stream has shown.
		for i, least := range []int{15, 1} {
			if got, _ := strconv.Atoi(pings[i][2]); got < least {
				l.t.Error(out)
			}
		}
		select {
		case <-flooding.ended:
			l.t.Fatalf("the flood is over: %s%s", flooding.out, flooding.err)
		default:
		}
	}
	// What passed last is kept, and there are queues.
	if after := resident(l.t, pid); after > before+128<<20 {
		l.t.Errorf("the supervisor has grown from %d to %d MiB", before>>20, after>>20)
	}
}

// resident is the memory of a process that lives, in bytes.
func resident(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscanf(rss, "%d kB", &kib); err != nil {
		t.Fatalf("%v: %s", err, status)
	}
	return kib << 10
}

// TestLabForeignText: what a guest wrote drove the terminal of who looked at its
// log.
func TestLabForeignText(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), pair)
	l.do("up")
	l.in("anna", `printf 'before\033]0;owned\007\033[2J\233after\n' >/dev/console`)
	eventually(t, patience, "the log has it", func() bool { return strings.Contains(l.do("logs", "anna"), "after") })
	if out := l.do("logs", "anna"); !strings.Contains(out, "before\x1b]0;owned\x07\x1b[2J\x9bafter") {
		t.Errorf("%q is not what it wrote", out)
	}
	x := l.atTerminalIn(t, l.dir, "logs", "anna")
	x.out.expect(t, "after")
	x.left(t, 0)
	if out := x.out.String(); strings.Contains(out, "\x1b]") || strings.Contains(out, "\x07") || !strings.Contains(out, "before\ufffdafter") {
		t.Errorf("%q", out)
	}
	if e := l.fails(1, "cp", "anna:/tmp/\x1b[2Jnothing", "."); strings.Contains(e, "\x1b") {
		t.Errorf("%q", e)
	}
	// The end of what is typed is not the end of the shell there.
	typed := l.start(t, call{dir: l.dir, stdin: strings.NewReader("echo typed $((1+1))\r")}, "console", "anna")
	typed.out.expect(t, "typed 2")
	followed := l.start(t, call{dir: l.dir}, "logs", "-F", "anna")
	followed.out.expect(t, "typed 2")
	l.do("down")
	for _, r := range []*running{typed, followed} {
		if status := r.end(t); status != 0 {
			t.Errorf("status %d at the lab's end: %s", status, r.err)
		}
	}
	if strings.Contains(typed.out.String(), "logout") {
		t.Errorf("%q", typed.out.String())
	}
}

// TestLabFolders has the lab's folder where it is hard to reach, and where it can't
// be.
func TestLabFolders(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, pair)
	deep := filepath.Join(p.home, strings.Repeat("d", 120), strings.Repeat("e", 120))
	env := []string{"WOLFFIA_STATE=" + deep, "XDG_RUNTIME_DIR="}
	for _, args := range [][]string{{"up"}, {"exec", "anna", "--", "true"}, {"ps"}, {"ssh-config"}, {"capture", "lan", "--last", "1m", "-w", "-"}, {"down"}} {
		l.run(t, call{dir: l.dir, env: env}, args...)
	}
	closed := p.folder(t, "closed")
	os.Chmod(closed, 0o500)
	file := filepath.Join(p.home, "file")
	p.write(t, file, "")
	for what, env := range map[string]string{"read-only": "WOLFFIA_STATE=" + closed, "a file": "WOLFFIA_STATE=" + file, "none": "HOME="} {
		o := l.try(t, call{dir: l.dir, env: []string{env}}, "up")
		if o.status != 1 || !strings.Contains(o.err, "WOLFFIA_STATE") && !strings.Contains(o.err, file) || strings.Count(o.err, "\n") > 2 {
			t.Errorf("%s: %v", what, o)
		}
	}
	if left := p.processes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLabHoldsNothing: the supervisor kept open what the shell that started it had,
// such as a lock, until the lab went down.
func TestLabHoldsNothing(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, pair)
	flock := tooltest.Require(t, "flock", "util-linux")
	lock := filepath.Join(p.home, "lock")
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.command(context.Background(), call{dir: l.dir, program: flock}, lock, bin, "up")
	if out, err := cmd.CombinedOutput(); err != nil { // which ends only when nobody holds the pipe
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command(flock, "-n", lock, "true").CombinedOutput(); err != nil {
		t.Errorf("the lock is still held: %v %s", err, out)
	}
}

// TestLabCommandStatus: a command in a machine behaves as if it ran here, and what
// keeps it from running has a status of its own.
func TestLabCommandStatus(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), pair)
	if o := l.try(t, call{dir: l.dir}, "exec", "anna", "--", "true"); o.status != 125 {
		t.Error(o)
	}
	l.do("up")
	for script, status := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255, "kill -9 $$": 137, "exec /nothing": 127, "exec /etc": 126} {
		if o := l.try(t, call{dir: l.dir}, "exec", "anna", "--", "sh", "-c", script); o.status != status {
			t.Errorf("%s: %v", script, o)
		}
	}
	for want, args := range map[string][]string{
		`unknown machine "ana"; did you mean "anna"?`:  {"exec", "ana", "--", "true"},
		`unknown machine "nobody"`:                     {"restart", "anna", "nobody"},
		`unknown machine "berti"; did you mean "bert"`: {"stop", "berti"},
		`unknown machine "../anna"`:                    {"ssh", "../anna", "--", "true"},
		`unknown name ".."`:                            {"console", ".."},
		`did you mean "lan"?`:                          {"net", "down", "anna/lam"},
		`unknown machine or network "la"`:              {"capture", "la"},
		`no lab called "x" is up`:                      {"exec", "--lab", "x", "anna", "--", "true"},
	} {
		if o := l.try(t, call{dir: l.dir}, args...); o.status != 2 || !strings.Contains(o.err, want) {
			t.Errorf("%q: %v", want, o)
		}
	}
	l.do("stop", "bert")
	if o := l.try(t, call{dir: l.dir}, "exec", "bert", "--", "true"); o.status != 125 || !strings.Contains(o.err, "wolffia restart bert") {
		t.Error(o)
	}
	// Every byte, both ways, at once.
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 7 >> (i % 5))
	}
	o := l.run(t, call{dir: l.dir, stdin: bytes.NewReader(data)}, "exec", "anna", "--", "tee", "/tmp/copy")
	if o.out != string(data) || l.do("exec", "anna", "--", "cat", "/tmp/copy") != string(data) {
		t.Error("the bytes differ")
	}
	// Signals are the command's; its terminal is one.
	sleeping := l.start(t, call{dir: l.dir}, "exec", "anna", "--", "sh", "-c", "trap 'echo got it; exit 5' INT; echo waits; while :; do sleep 0.1; done")
	sleeping.out.expect(t, "waits")
	sleeping.Process.Signal(syscall.SIGINT)
	if status := sleeping.end(t); status != 5 {
		t.Errorf("status %d: %s %s", status, sleeping.out, sleeping.err)
	}
	if got := l.do("exec", "-t", "anna", "--", "sh", "-c", "test -t 0 && test -t 1 && echo a terminal"); !strings.Contains(got, "a terminal") {
		t.Errorf("%q", got)
	}
	// One whose machine is killed under it.
	killed := l.start(t, call{dir: l.dir}, "exec", "anna", "--", "sh", "-c", "echo runs; sleep 1000")
	killed.out.expect(t, "runs")
	l.do("stop", "--kill", "anna")
	if status := killed.end(t); status != 125 || !strings.Contains(killed.err.String(), "went away") {
		t.Errorf("status %d: %s", status, killed.err)
	}
}

// TestLabCopies copies names of every kind there and back.
func TestLabCopies(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, pair)
	l.do("up")
	odd := filepath.Join(l.dir, "odd")
	files := map[string]string{
		"plain": "x", "-rf": "dash", "a b\tc": "blank", "new\nline": "newline", "quo'te\"$(id)": "quotes", "ünïcode ☃": "letters",
		"bytes\xff\xfe": "no UTF-8", "empty": "", "*?[": "glob", ".hidden": "dot", "sub/deep/er": "deep", strings.Repeat("n", 255): "long",
		"large": strings.Repeat("0123456789abcdef", 1<<16),
	}
	for name, content := range files {
		path := filepath.Join(odd, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		p.write(t, path, content)
	}
	os.Chmod(filepath.Join(odd, "plain"), 0o4751)
	os.Symlink("nowhere at all", filepath.Join(odd, "dangling"))
	os.Symlink("sub", filepath.Join(odd, "link"))
	if err := p.own(filepath.Join(odd, "empty folder")); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(odd, "empty folder"), 0o700)
	l.do("cp", "odd", "anna:/tmp/there")
	l.do("cp", "anna:/tmp/there", "bert:/tmp/")
	l.do("cp", "bert:/tmp/there", "back")
	for name, content := range files {
		data, err := os.ReadFile(filepath.Join(l.dir, "back", name))
		if err != nil || string(data) != content {
			t.Errorf("%q: %d bytes, %v", name, len(data), err)
		}
	}
	for name, want := range map[string]string{"dangling": "nowhere at all", "link": "sub"} {
		if got, err := os.Readlink(filepath.Join(l.dir, "back", name)); got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(l.dir, "back/empty folder")); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info, err)
	}
	if got := l.in("bert", "stat -c %a /tmp/there/plain"); got != "4751\n" && got != "751\n" {
		t.Error(got)
	}
	// One by one, by names that look like something else.
	os.WriteFile(filepath.Join(l.dir, "a:b"), []byte("colon"), 0o644)
	l.do("cp", "./a:b", "anna:/tmp/-x")
	l.do("cp", "anna:/tmp/-x", "./-y")
	if data, err := os.ReadFile(filepath.Join(l.dir, "-y")); string(data) != "colon" {
		t.Errorf("%q, %v", data, err)
	}
	// What can't be done says so, and leaves no part behind.
	l.in("anna", "mount -t tmpfs -o size=64k none /mnt")
	if e := l.fails(1, "cp", "odd/large", "anna:/mnt/large"); !strings.Contains(e, "No space left") {
		t.Error(e)
	}
}

// TestLabLimits: a lab does not grow by what is done to it again and again.
func TestLabLimits(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, pair)
	l.do("up")
	pid, _ := l.ps()
	open := func() (files []string) {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			name, _ := os.Readlink(filepath.Join(dir, fd.Name()))
			files = append(files, fd.Name()+" "+name)
		}
		return files
	}
	round := func() {
		l.do("restart", "bert")
		l.in("bert", "true")
		l.do("net", "set", "bert", "delay", "1ms")
		l.do("capture", "lan", "--last", "1s", "-w", "-")
		l.do("logs", "bert")
	}
	round()
	before := open()
	for range 5 {
		round()
	}
	limit := time.Now().Add(patience)
	for after := open(); len(after) > len(before)+1; after = open() {
		if time.Now().After(limit) {
			t.Fatalf("open before: %q; after: %q", before, after)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
