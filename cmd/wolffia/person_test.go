package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// nobodyElse is the account that the tests of a root use: no name, no home, no
// group of anybody's.
const nobodyElse = 12345

// person is somebody who runs wolffia, with folders of their own.
type person struct {
	uid    int
	home   string
	cache  string
	tmp    string // TMPDIR; every process and file of a run can be told by it
	killed bool   // a run was killed, and left its scratch folder behind
	at     *apart // the host of their own that all of it happens on; nil for this one
}

// newPerson makes an ordinary user with an empty home, who shares the filled
// cache. When the test ends, no process of theirs may be left.
func newPerson(t testing.TB) *person {
	t.Helper()
	p := stranger(t, ordinaryUID())
	cache, err := filledCache()
	if err != nil {
		t.Fatal(err)
	}
	p.cache = cache
	return p
}

// newcomer is a person with a cache of their own, which is empty.
func newcomer(t testing.TB) *person {
	t.Helper()
	return stranger(t, ordinaryUID())
}

// ordinaryUID is an account without privileges that the tests can use.
func ordinaryUID() int {
	if os.Getuid() == 0 {
		return nobodyElse
	}
	return os.Getuid()
}

func stranger(t testing.TB, uid int) *person {
	t.Helper()
	if _, err := program(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(stage.dir, "p")
	if err != nil {
		t.Fatal(err)
	}
	p := &person{uid: uid, home: filepath.Join(dir, "home"), cache: filepath.Join(dir, "cache"), tmp: filepath.Join(dir, "tmp")}
	if err := p.own(dir, p.home, p.tmp); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.checkGone(t)
		if err := removeAll(dir); err != nil {
			t.Error(err)
		}
	})
	return p
}

// own makes folders that belong to the person.
func (p *person) own(dirs ...string) error {
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
		if err := os.Chown(d, p.uid, p.uid); err != nil && os.Getuid() == 0 {
			return err
		}
	}
	return nil
}

// folder makes a folder in the person's home.
func (p *person) folder(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(p.home, name)
	if err := p.own(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// write makes a file in a folder of the person's.
func (p *person) write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(path, p.uid, p.uid); err != nil {
			t.Fatal(err)
		}
	}
}

// checkGone sees to it that nothing is left of the person's runs.
func (p *person) checkGone(t testing.TB) {
	t.Helper()
	limit := time.Now().Add(5 * time.Second)
	left := p.processes()
	for ; len(left) > 0 && time.Now().Before(limit); left = p.processes() {
		time.Sleep(20 * time.Millisecond)
	}
	for pid, line := range left {
		t.Errorf("process %d is left: %s", pid, line)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if p.killed {
		return
	}
	scratch, _ := filepath.Glob(filepath.Join(p.tmp, "*", "*"))
	if len(scratch) > 0 {
		t.Errorf("left in TMPDIR: %q", scratch)
	}
}

// processes finds the person's processes, whose environment or command line
// names their TMPDIR, with their command lines.
func (p *person) processes() map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		if bytes.Contains(environ, []byte(p.tmp)) || bytes.Contains(cmdline, []byte(p.tmp)) || strings.HasPrefix(cwd, p.tmp) {
			stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
			if _, rest, _ := bytes.Cut(stat, []byte(") ")); len(rest) > 0 && rest[0] == 'Z' {
				continue // dead; only its parent has not looked yet
			}
			found[pid] = string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		}
	}
	return found
}

// call says how a program is run.
type call struct {
	dir     string // working folder; the home if empty
	env     []string
	stdin   io.Reader     // nil is an empty input
	limit   time.Duration // 0 is a minute
	program string        // instead of the test binary as wolffia
	wrap    []string      // a program before wolffia, which runs it, such as unshare
}

// passedOn are the variables of the tests' own environment that the programs
// get: how the archive and Go's modules can be reached.
var passedOn = []string{
	"PATH", "WOLFFIA_MIRROR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

// command prepares a call as the person.
func (p *person) command(ctx context.Context, c call, args ...string) *exec.Cmd {
	bin := c.program
	if bin == "" {
		bin, _ = program() // newPerson has looked at the error
	}
	argv := append(append(slices.Clone(c.wrap), bin), args...)
	if p.at != nil {
		argv = append(p.at.enter(cmp.Or(c.dir, p.home)), argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = p.home
	}
	cmd.Env = []string{"HOME=" + p.home, "TMPDIR=" + p.tmp, "WOLFFIA_CACHE=" + p.cache, "LC_ALL=C.UTF-8"}
	for _, name := range passedOn {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdin = c.stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 && p.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.uid)}
	}
	// A Go program answers SIGABRT with the stacks of all its goroutines.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGABRT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// outcome is how a call ended.
type outcome struct {
	argv     []string
	status   int // the exit status; 128 and the signal's number where one ended it
	out, err string
}

func (o outcome) String() string {
	return fmt.Sprintf("%s\n--- status %d\n--- stdout (%d bytes)\n%s\n--- stderr (%d bytes)\n%s",
		strings.Join(o.argv, " "), o.status, len(o.out), clip(o.out), len(o.err), clip(o.err))
}

func clip(s string) string {
	const most = 6000
	if len(s) <= most {
		return s
	}
	return s[:most/2] + "\n[...]\n" + s[len(s)-most/2:]
}

// try runs wolffia with args and waits for its end.
func (p *person) try(t testing.TB, c call, args ...string) outcome {
	t.Helper()
	limit := c.limit
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := p.command(ctx, c, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	o := outcome{argv: cmd.Args, out: out.String(), err: errs.String(), status: status(cmd)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("no end after %v: %v", limit, o)
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("%v: %v", err, o)
	}
	return o
}

func status(cmd *exec.Cmd) int {
	if cmd.ProcessState == nil {
		return -1
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// run is try for calls that have to succeed.
func (p *person) run(t testing.TB, c call, args ...string) outcome {
	t.Helper()
	o := p.try(t, c, args...)
	if o.status != 0 {
		t.Fatal(o)
	}
	return o
}

// cold is how long a call may take that has to fetch and unpack everything,
// or to move a lot, on a host with other things to do.
const cold = 5 * time.Minute

// running is wolffia under way.
type running struct {
	*exec.Cmd
	out, err *transcript
	ended    chan struct{} // closed at its end
}

// start begins a call. What still runs at the test's end is told to end.
func (p *person) start(t testing.TB, c call, args ...string) *running {
	t.Helper()
	r := &running{out: &transcript{}, err: &transcript{}, ended: make(chan struct{})}
	r.Cmd = p.command(context.Background(), c, args...)
	r.Stdout, r.Stderr = r.out, r.err
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		r.Wait()
	}()
	t.Cleanup(func() { p.stop(t, r) })
	return r
}

// stop ends a call that may run.
func (p *person) stop(t testing.TB, r *running) {
	t.Helper()
	r.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(patience):
		p.killed = true
		r.Process.Kill()
		<-r.ended
		t.Errorf("SIGTERM did not end it within %v\n--- stdout\n%s\n--- stderr\n%s", patience, clip(r.out.String()), clip(r.err.String()))
	}
}

// end waits for the end of a call and gives its status.
func (r *running) end(t testing.TB) int {
	t.Helper()
	select {
	case <-r.ended:
		return status(r.Cmd)
	case <-time.After(patience):
		r.Process.Signal(syscall.SIGABRT)
		<-r.ended
		t.Fatalf("no end within %v\n--- stdout\n%s\n--- stderr\n%s", patience, clip(r.out.String()), clip(r.err.String()))
		return -1
	}
}

// guest runs a shell script in a machine with the default image, and gives
// what it wrote to its output. It has to succeed.
func (p *person) guest(t testing.TB, script string, flags ...string) string {
	t.Helper()
	args := append([]string{"run"}, flags...)
	return p.run(t, call{}, append(args, "--", "sh", "-ec", script)...).out
}

// filledCache is a cache in which the images are that most tests use, with
// their kernels, as wolffia makes them without the race detector.
var filledCache = sync.OnceValues(func() (string, error) {
	plain, err := plainProgram()
	if err != nil {
		return "", err
	}
	p := &person{uid: ordinaryUID(), home: filepath.Join(stage.dir, "filler"), cache: filepath.Join(stage.dir, "cache")}
	p.tmp = filepath.Join(p.home, "tmp")
	if err := p.own(p.home, p.tmp, p.cache); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*cold)
	defer cancel()
	fill := func(args ...string) error {
		if out, err := p.command(ctx, call{program: plain}, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("fill the cache: %w\n%s", err, out)
		}
		return nil
	}
	if err := fill("run", "--", "true"); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(p.home, "wolffia.yaml"), []byte(small+`machines:
  uml: {}
  umldisk: {root: disk}
  qemu: {backend: qemu}
  qemudisk: {backend: qemu, root: disk}
  arm64: {backend: qemu, arch: arm64}
`), 0o644); err != nil {
		return "", err
	}
	for _, machine := range []string{"uml", "umldisk", "qemu", "qemudisk", "arm64"} {
		if err := fill("explain", "run", machine); err != nil {
			return "", err
		}
	}
	return p.cache, nil
})
