package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/api"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/store"
)

// labDir is where a lab in the background keeps what is its own: logs, disks,
// its socket. It is found by the file that describes the lab.
type labDir struct{ path string }

// Names in a lab's folder.
const (
	labSocket  = "api.sock"
	labLock    = "lock"     // held by the supervisor while it lives
	labRecord  = "lab.json" // an api.Info; there from up to down
	labJournal = "journal"  // the supervisor's own log; those of machines end in .log
	labDisks   = "disks"
	labHost    = "host.json" // what was changed on the host's own network
)

// labsDir is the folder of all labs.
func labsDir(env Env) (string, error) {
	folders, err := store.FoldersOf(env.Getenv)
	if err != nil {
		return "", err
	}
	return filepath.Join(folders.State, "labs"), nil
}

// labDirOf is the folder of the lab that file, an absolute path, describes. Two
// files whose labs have the same name are two labs. A lab that is there already
// is found by its file alone, whose name for it, or whose sense, may be another
// by now.
func labDirOf(env Env, name, file string) (labDir, error) {
	dir, err := labsDir(env)
	if err != nil {
		return labDir{}, err
	}
	file = realPath(file)
	sum := sha256.Sum256([]byte(file))
	key := "-" + hex.EncodeToString(sum[:4])
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return labDir{}, fmt.Errorf("look for labs: %w", err)
	}
	for _, e := range entries {
		if d := (labDir{filepath.Join(dir, e.Name())}); strings.HasSuffix(e.Name(), key) {
			if _, up := d.record(); up || e.Name() == name+key {
				return d, nil
			}
		}
	}
	return labDir{filepath.Join(dir, name+key)}, nil
}

// realPath is a path without links. A file that is gone has its folder's.
func realPath(file string) string {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil {
		return filepath.Join(dir, filepath.Base(file))
	}
	return file
}

func (d labDir) join(name string) string { return filepath.Join(d.path, name) }

// create makes the folder.
func (d labDir) create() error {
	err := os.MkdirAll(filepath.Dir(d.path), 0o700)
	if err == nil {
		err = store.PrivateDir(d.path)
	}
	if err != nil {
		return fmt.Errorf("make the lab's folder: %w; set WOLFFIA_STATE to a folder that can be written", err)
	}
	return nil
}

// lock takes the lab for this process; the kernel drops it with the process.
// False means that another one has it.
func (d labDir) lock() (*os.File, bool, error) {
	f, err := os.OpenFile(d.join(labLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("lock the lab: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, false, nil
	}
	if err != nil {
		f.Close()
		return nil, false, fmt.Errorf("lock the lab: %w", err)
	}
	return f, true, nil
}

// owned says whether a process has the lab. One that does not answer on its socket
// yet, or any more, starts or ends.
func (d labDir) owned() (bool, error) {
	f, err := os.Open(d.join(labLock))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the lab's lock: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return false, fmt.Errorf("look at the lab's lock: %w", err)
	}
	return err != nil, nil
}

// answerPatience is how long a supervisor may take to answer at all, to start or,
// once it has let go of its machines, to end.
const answerPatience = 10 * time.Second

// lookEvery is how often a lab is looked at that starts or ends.
const lookEvery = 20 * time.Millisecond

// settle waits until the lab's supervisor answers, or there is none. A nil client
// says that there is none.
func (d labDir) settle(ctx context.Context) (*api.Client, error) {
	limit := time.Now().Add(answerPatience)
	for {
		c, err := d.dial(ctx)
		if err != nil || c != nil {
			return c, err
		}
		owned, err := d.owned()
		if err != nil || !owned {
			return nil, err
		}
		if time.Now().After(limit) {
			return nil, &silentError{d}
		}
		if err := pause(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

// pause waits for some time.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// silentError is a supervisor that is there and does not answer.
type silentError struct{ dir labDir }

func (e *silentError) Error() string {
	info, known := e.dir.record()
	if !known {
		return fmt.Sprintf("the lab's supervisor has not answered for %v; see %s", answerPatience, e.dir.join(labJournal))
	}
	return fmt.Sprintf("the supervisor of lab %s, process %d, has not answered for %v; if it was stopped: kill -CONT %[2]d; if all else fails: kill -KILL %[2]d, which ends the lab",
		info.Name, info.PID, answerPatience)
}

// dial connects to the lab's supervisor; nil means that none answers.
func (d labDir) dial(ctx context.Context) (*api.Client, error) {
	c, err := api.Dial(d.join(labSocket), version().Version)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	silent := &silentError{d}
	asking, cancel := context.WithTimeoutCause(ctx, answerPatience, silent)
	defer cancel()
	if _, err = c.Info(asking); err == nil {
		return c, nil
	}
	c.Close()
	for _, gone := range []error{unix.ECONNREFUSED, unix.ENOENT, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return nil, nil
		}
	}
	return nil, err
}

// record reads what is kept of the lab; it is there while the lab is up, and
// after its supervisor was killed.
func (d labDir) record() (api.Info, bool) {
	var i api.Info
	data, err := readBounded(d.join(labRecord), 1<<20)
	if err != nil || json.Unmarshal(data, &i) != nil {
		return i, false
	}
	return i, true
}

func (d labDir) writeRecord(i api.Info) error {
	data, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("note the lab: %w", err)
	}
	// Whole or not at all: who finds half of it would not see the lab.
	half := d.join(labRecord + ".new")
	err = os.WriteFile(half, data, 0o600)
	if err == nil {
		err = os.Rename(half, d.join(labRecord))
	}
	if err != nil {
		os.Remove(half)
		return fmt.Errorf("note the lab: %w", err)
	}
	return nil
}

// forget removes what says that the lab is up.
func (d labDir) forget() {
	os.Remove(d.join(labRecord))
	os.Remove(d.join(labSocket))
}

// dropDisks removes what the lab's machines wrote to their disks.
func (d labDir) dropDisks() error {
	if err := os.RemoveAll(d.join(labDisks)); err != nil {
		return fmt.Errorf("drop the lab's disks: %w", err)
	}
	return nil
}

// allLabs are the folders of labs that are, or were, up.
func allLabs(env Env) ([]labDir, error) {
	dir, err := labsDir(env)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for labs: %w", err)
	}
	var out []labDir
	for _, e := range entries {
		d := labDir{filepath.Join(dir, e.Name())}
		if _, ok := d.record(); ok {
			out = append(out, d)
		}
	}
	return out, nil
}

// labOptions say which lab a verb is about.
type labOptions struct {
	file  string
	lab   string
	quiet bool
}

// running connects to the lab that -f or --lab names, or whose file is here, or
// else the only one that is up. What one that is not up any more has left on the
// host's network is undone.
func (o *labOptions) running(ctx context.Context, env Env) (*api.Client, labDir, error) {
	c, d, err := o.connect(ctx, env)
	if noneRuns(err) {
		if uerr := recoverHost(d, event.Discard); uerr != nil {
			err = fmt.Errorf("%w; %w", err, uerr)
		}
	}
	return c, d, err
}

// connect is running that leaves the host's network as it is: completion changes
// nothing, and some verbs undo what is left by themselves.
func (o *labOptions) connect(ctx context.Context, env Env) (*api.Client, labDir, error) {
	d, err := o.find(env)
	if err != nil {
		return nil, d, err
	}
	c, err := d.settle(ctx)
	if err != nil {
		return nil, d, err
	}
	if c == nil {
		info, recorded := d.record()
		if recorded {
			return nil, d, &deadError{info}
		}
		return nil, d, errNotUp
	}
	return c, d, nil
}

// errNotUp is a lab that nobody has started.
var errNotUp = errors.New("the lab is not up; start it with: wolffia up")

// deadError is a lab whose supervisor was killed.
type deadError struct{ info api.Info }

func (e *deadError) Error() string {
	return fmt.Sprintf("lab %s is dead: its supervisor, process %d since %s, was killed, and everything ended with it; start it again with: wolffia up",
		e.info.Name, e.info.PID, e.info.Started.Local().Format(time.DateTime))
}

// noneRuns says of an error of connect that the lab is found, and nothing of it runs.
func noneRuns(err error) bool {
	var dead *deadError
	return errors.As(err, &dead) || errors.Is(err, errNotUp)
}

func (o *labOptions) find(env Env) (labDir, error) {
	if o.lab != "" {
		return o.byName(env)
	}
	// What runs is what the file said when it was applied, whatever has become of
	// the file since.
	file := inDir(env.Dir, cmp.Or(o.file, fileName))
	if d, err := labDirOf(env, "", file); err != nil {
		return labDir{}, err
	} else if _, up := d.record(); up {
		return d, nil
	}
	l, err := readLab(env, o.file)
	var mistakes lab.Errors
	switch {
	case errors.As(err, &mistakes):
		return labDirOf(env, "", file)
	case err != nil:
		return labDir{}, err
	case l.path != "":
		return labDirOf(env, l.Name, l.path)
	}
	labs, err := allLabs(env)
	switch {
	case err != nil:
		return labDir{}, err
	case len(labs) == 1:
		return labs[0], nil
	case len(labs) == 0:
		return labDir{}, errors.New("no lab is up; write a wolffia.yaml (wolffia init makes one), and start it with: wolffia up")
	}
	return labDir{}, usagef("several labs are up, and there is no %s here; name one with --lab: %s", fileName, strings.Join(labNames(labs), ", "))
}

func (o *labOptions) byName(env Env) (labDir, error) {
	labs, err := allLabs(env)
	if err != nil {
		return labDir{}, err
	}
	var found []labDir
	for _, d := range labs {
		if info, _ := d.record(); info.Name == o.lab || filepath.Base(d.path) == o.lab {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if len(labs) == 0 {
			return labDir{}, usagef("no lab called %q is up, nor any other one", o.lab)
		}
		return labDir{}, usagef("no lab called %q is up; those that are: %s", o.lab, strings.Join(labNames(labs), ", "))
	}
	return labDir{}, usagef("several labs are called %q; name its file with -f", o.lab)
}

func labNames(labs []labDir) []string {
	var out []string
	for _, d := range labs {
		info, _ := d.record()
		out = append(out, info.Name)
	}
	slices.Sort(out)
	return out
}
