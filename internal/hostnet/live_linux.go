package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet/wire"
)

var (
	// ErrLive says that the owner of a journal is alive.
	ErrLive = errors.New("its owner is running")
	// ErrElsewhere says that a journal is about another network namespace than
	// that of the process, and can only be undone there.
	ErrElsewhere = errors.New("it is about another network namespace")
)

// Options say where things are. The zero value of each field but Journal is of
// use.
type Options struct {
	// Journal is the file that has what was done, until it is undone. It lies
	// in the lab's state folder, on a file system that outlives the process.
	Journal string
	// RunDir is the folder of the ledgers, one for all labs of the host. Empty
	// means /run/wolffia for root, and else wolffia in XDG_RUNTIME_DIR or a
	// folder of the user's own in the one for temporary files.
	RunDir string
	// BridgeHelper is the path of qemu-bridge-helper; empty looks where
	// distributions put it.
	BridgeHelper string
}

func (o *Options) runDir() string {
	if o.RunDir != "" {
		return o.RunDir
	}
	// Root of a user namespace may have no right to the host's /run.
	if os.Geteuid() == 0 && os.MkdirAll("/run/wolffia", 0o700) == nil {
		return "/run/wolffia"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "wolffia")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("wolffia-%d", os.Geteuid()))
}

// Live is a plan that is applied. Close undoes it.
type Live struct {
	actor    *actor
	journal  *journal
	warnings []Warning
	taken    []step // in order

	closing sync.Once
	closed  error
}

// Warning is something that works, but not as one might think.
type Warning struct {
	What string // what is the matter
	Fix  string // the command that mends it; may be empty
}

// Tap gives the port of a tap of the plan, or nil. It is closed by whoever has
// it, or by Close.
func (l *Live) Tap(name string) *wire.Tap { return l.actor.taps[name] }

// Warnings tell what was seen of the host that may be in the way: rules that
// drop what is forwarded, leases that nobody renews.
func (l *Live) Warnings() []Warning { return l.warnings }

// Commands gives the commands that do what Apply would do now, for a shell; or
// once old is undone, a plan that is live, unless it is the zero value. What a dead
// owner of the journal left counts as undone. It changes nothing, and asks for no
// privilege.
func Commands(p, old Plan, o Options) ([]string, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	dead, err := abandoned(o)
	if err != nil {
		return nil, err
	}
	f, err := readFacts()
	if err != nil {
		return nil, err
	}
	f.without(&old)
	f.undone(dead)
	steps, _, err := compile(&p, f)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range steps {
		out = append(out, s.commands()...)
	}
	return out, nil
}

// Probe finds what would keep Apply from beginning: a plan that can't be, on this
// host or anywhere, or a missing privilege, which is a *host.UnsupportedError. It
// leaves the host as it is.
func Probe(p Plan, o Options) error {
	if _, _, err := prepare(&p); err != nil {
		return err
	}
	denied := privileged()
	if denied == nil {
		return nil
	}
	if !p.unprivileged() {
		return denied
	}
	l, err := plugIn(&p, o, &actor{taps: map[string]*wire.Tap{}}, denied)
	if err != nil {
		return err
	}
	return l.Close()
}

func prepare(p *Plan) ([]step, []Warning, error) {
	if err := p.Check(); err != nil {
		return nil, nil, err
	}
	f, err := readFacts()
	if err != nil {
		return nil, nil, err
	}
	return compile(p, f)
}

// Apply does what a plan says, in the network namespace of the process. When a
// step fails, it undoes those before, and says which failed. What a dead owner
// of the journal left is undone first; a live one is an [ErrLive]. A missing
// privilege is a *host.UnsupportedError.
func Apply(p Plan, o Options) (*Live, error) { return apply(p, o, nil) }

func apply(p Plan, o Options, before func(string) error) (*Live, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	a := &actor{taps: map[string]*wire.Tap{}, before: before}
	if err := privileged(); err != nil {
		if !p.unprivileged() {
			return nil, err
		}
		return plugIn(&p, o, a, err)
	}
	j, err := newJournal(&p, o, a)
	if err != nil {
		return nil, err
	}
	steps, warnings, err := prepare(&p)
	if err != nil {
		return nil, errors.Join(err, j.remove())
	}
	l := &Live{actor: a, journal: j, warnings: warnings}
	for _, s := range steps {
		if err := l.take(s); err != nil {
			return nil, errors.Join(fmt.Errorf("set up the host's network: %w", err), l.Close())
		}
	}
	l.warnings = append(l.warnings, obstacles(&p)...)
	return l, nil
}

func newJournal(p *Plan, o Options, a *actor) (*journal, error) {
	at, err := here()
	if err != nil {
		return nil, err
	}
	path, err := filepath.Abs(o.Journal)
	if err != nil {
		return nil, fmt.Errorf("open the journal of the host's network: %w", err)
	}
	runDir := o.runDir()
	f, err := openJournal(path, runDir, true)
	if err != nil {
		return nil, err
	}
	if err := recoverFrom(f, path); err != nil {
		f.Close()
		return nil, fmt.Errorf("undo what journal %s says: %w", path, err)
	}
	j, err := begin(f, path, header{Wolffia: journalVersion, Plan: p.Name, Place: at, RunDir: runDir})
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	a.ledger = &ledger{dir: runDir, name: at.ledgerName(), user: path}
	return j, nil
}

func (l *Live) take(s step) error {
	if err := l.journal.will(s); err != nil {
		return err
	}
	_, many := s.(*moveStep)
	do := func() error { return s.do(l.actor) }
	err := error(nil)
	if many {
		err = do() // it asks by itself before each change
	} else {
		err = l.actor.change(describe(s), do)
	}
	if err == nil {
		l.taken = append(l.taken, s)
		return nil
	}
	if _, shared := s.(*sharedStep); many || shared {
		l.taken = append(l.taken, s) // it may have got half-way
	} else if jerr := l.journal.failed(); jerr != nil {
		err = errors.Join(err, jerr)
	}
	return fmt.Errorf("%s: %w", describe(s), err)
}

// Close undoes everything, the last step first. What can't be undone is told,
// and stays in the journal.
func (l *Live) Close() error {
	l.closing.Do(func() { l.closed = l.close() })
	return l.closed
}

func (l *Live) close() error {
	for _, t := range l.actor.taps {
		t.Close()
	}
	err := undo(l.taken, l.actor)
	if l.journal == nil {
		return err
	}
	if err != nil {
		l.journal.f.Close()
		return fmt.Errorf("undo the host's network, what is left is in %s: %w", l.journal.path, err)
	}
	return l.journal.remove()
}

func undo(steps []step, a *actor) error {
	var errs []error
	for _, s := range slices.Backward(steps) {
		if s == nil {
			continue
		}
		if err := s.undo(a); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", describe(s), err))
		}
	}
	return errors.Join(errs...)
}

// Recover undoes what the dead owner of a journal left, and removes the
// journal. Without a journal there is nothing to do. It is an [ErrLive] when
// the owner lives, and an [ErrElsewhere] in another network namespace.
func Recover(o Options) error {
	path, err := filepath.Abs(o.Journal)
	if err != nil {
		return fmt.Errorf("undo the host's network: %w", err)
	}
	f, err := openJournal(path, o.runDir(), false)
	if err != nil || f == nil {
		return err
	}
	j := &journal{f: f, path: path}
	if err := recoverFrom(f, path); err != nil {
		f.Close()
		return fmt.Errorf("undo what journal %s says: %w", path, err)
	}
	return j.remove()
}

// Abandoned says whether there is something that [Recover] would undo. It changes
// nothing. It is an [ErrElsewhere] in another network namespace.
func Abandoned(o Options) (bool, error) {
	steps, err := abandoned(o)
	return len(steps) > 0, err
}

// abandoned are the steps that a dead owner of the journal left.
func abandoned(o Options) ([]step, error) {
	if _, err := os.Lstat(o.Journal); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	// Who looks at a journal's lock has the ledgers locked: see lockJournal.
	dir, err := openRunDir(o.runDir())
	if err == nil {
		defer dir.Close()
		err = flock(dir, unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the ledgers of sysctls: %w", err)
	}
	f, err := os.Open(o.Journal)
	if errors.Is(err, os.ErrNotExist) { // undone meanwhile
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the journal of the host's network: %w", err)
	}
	defer f.Close()
	if flock(f, unix.LOCK_SH|unix.LOCK_NB) != nil { // its owner lives
		return nil, nil
	}
	_, _, steps, err := leftBy(f)
	if err != nil {
		return nil, fmt.Errorf("read what journal %s says: %w", o.Journal, err)
	}
	return steps, nil
}

// leftBy reads what a journal tells of that is still there.
func leftBy(f *os.File) (h header, at place, steps []step, err error) {
	if h, steps, err = readJournal(f); err != nil {
		return h, at, nil, err
	}
	if at, err = here(); err != nil {
		return h, at, nil, err
	}
	if h.Place.Boot != at.Boot || len(steps) == 0 {
		return h, at, nil, nil // what it tells of went with the kernel
	}
	if h.Place != at {
		return h, at, nil, ErrElsewhere
	}
	return h, at, steps, nil
}

func recoverFrom(f *os.File, path string) error {
	h, at, steps, err := leftBy(f)
	if err != nil || len(steps) == 0 {
		return err
	}
	if err := privileged(); err != nil {
		return err
	}
	return undo(steps, &actor{
		taps:   map[string]*wire.Tap{},
		ledger: &ledger{dir: h.RunDir, name: at.ledgerName(), user: path},
	})
}
