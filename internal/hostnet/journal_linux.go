package hostnet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// journal has the steps of one plan, each on disk before it is taken. Its owner
// has it locked as long as it lives.
type journal struct {
	f    *os.File
	path string
	n    int // steps written
}

// header is the first line of a journal.
type header struct {
	Wolffia int    // version of the format: 1
	Plan    string // its name
	Place   place
	RunDir  string // where the ledger is that its shared steps are in
}

// place is the network namespace that a journal is about. A boot makes all
// namespaces anew.
type place struct {
	Boot   string
	Inode  uint64
	Cookie uint64 `json:",omitempty"` // never used twice; Linux 5.14 and later
}

// line is what follows the header: a step, or that one did not work out and
// left nothing.
type line struct {
	N      int
	Failed bool   `json:",omitempty"`
	Do     record `json:",omitzero"`
}

const journalVersion = 1

// maxJournal and maxLine bound what is read of a journal: a plan has a few
// steps for each interface, and an uplink some hundred routes.
const (
	maxJournal = 64 << 20
	maxLine    = 8 << 20
)

// here is the network namespace of the process.
func here() (place, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return place{}, fmt.Errorf("tell the network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return place{}, fmt.Errorf("tell the network namespace: /proc/thread-self/ns/net: %w", err)
	}
	p := place{Boot: strings.TrimSpace(string(boot)), Inode: st.Ino}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return place{}, fmt.Errorf("tell the network namespace: %w", err)
	}
	defer unix.Close(fd)
	p.Cookie, _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return p, nil
}

// ledgerName is the file name of the namespace's ledger.
func (p place) ledgerName() string {
	return fmt.Sprintf("hostnet-%.8s-%d-%d", p.Boot, p.Inode, p.Cookie)
}

// openJournal opens and locks a journal; create makes it. It gives nil where
// there is none.
func openJournal(path, runDir string, create bool) (*os.File, error) {
	flags := os.O_RDWR | unix.O_NOFOLLOW
	if create {
		flags |= os.O_CREATE
	}
	for {
		f, err := os.OpenFile(path, flags, 0o600)
		if errors.Is(err, os.ErrNotExist) && !create {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("open the journal of the host's network: %w", err)
		}
		if err := lockJournal(f, runDir); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock the journal %s: %w", path, err)
		}
		// Whoever had it locked may have removed it.
		if sameFile(f, path) {
			return f, nil
		}
		f.Close()
	}
}

func lockJournal(f *os.File, runDir string) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err != unix.EWOULDBLOCK {
		return err
	}
	// That may have been somebody who only looked whether the owner lives,
	// which is done with the ledgers locked.
	dir, err := openRunDir(runDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := flock(dir, unix.LOCK_EX); err != nil {
		return err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		return err
	}
	return ErrLive
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// begin empties a journal and writes the header.
func begin(f *os.File, path string, h header) (*journal, error) {
	j := &journal{f: f, path: path}
	if err := f.Truncate(0); err != nil {
		return nil, fmt.Errorf("empty the journal %s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("empty the journal %s: %w", path, err)
	}
	if err := j.append(h); err != nil {
		return nil, err
	}
	// The folder's entry has to last as well.
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // not every file system can
		dir.Close()
	}
	return j, nil
}

func (j *journal) append(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = j.f.Write(append(b, '\n'))
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the journal %s: %w", j.path, err)
	}
	return nil
}

// will writes the step that is taken next.
func (j *journal) will(s step) error {
	r, err := marshalStep(s)
	if err != nil {
		return err
	}
	j.n++
	return j.append(line{N: j.n, Do: r})
}

// failed writes that the last step left nothing.
func (j *journal) failed() error { return j.append(line{N: j.n, Failed: true}) }

// remove ends the journal: all is undone.
func (j *journal) remove() error {
	err := os.Remove(j.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	j.f.Close()
	return err
}

// readJournal gives the steps that were taken, or may have been. The last line
// may be torn: its step was not taken then.
func readJournal(r io.Reader) (header, []step, error) {
	in := bufio.NewReaderSize(io.LimitReader(r, maxJournal), 1<<16)
	first, err := readLine(in)
	if err == io.EOF {
		return header{}, nil, nil // its owner died before the first step
	}
	if err != nil {
		return header{}, nil, err
	}
	var h header
	if err := json.Unmarshal(first, &h); err != nil {
		return header{}, nil, fmt.Errorf("line 1: %w", err)
	}
	if h.Wolffia != journalVersion {
		return h, nil, fmt.Errorf("line 1: a journal of version %d, which this wolffia does not know", h.Wolffia)
	}
	var steps []step
	for n := 2; ; n++ {
		b, err := readLine(in)
		if err == io.EOF {
			return h, steps, nil
		}
		if err != nil {
			return h, nil, fmt.Errorf("line %d: %w", n, err)
		}
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			return h, nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch {
		case l.Failed && l.N == len(steps) && l.N > 0:
			steps[l.N-1] = nil
		case l.Failed || l.N != len(steps)+1:
			return h, nil, fmt.Errorf("line %d: step %d does not follow", n, l.N)
		default:
			s, err := l.Do.step()
			if err != nil {
				return h, nil, fmt.Errorf("line %d: %w", n, err)
			}
			steps = append(steps, s)
		}
	}
}

// readLine gives io.EOF at the end, and at a last line without its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := in.ReadSlice('\n')
		out = append(out, part...)
		if len(out) > maxLine {
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		}
		switch err {
		case nil:
			return bytes.TrimSuffix(out, []byte("\n")), nil
		case bufio.ErrBufferFull:
		default:
			return nil, err
		}
	}
}
