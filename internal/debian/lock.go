package debian

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"wolffia/internal/debian/control"
)

// Request says which packages are wanted. The zero values of the further
// fields mean the smallest set: what is named and what it depends on.
type Request struct {
	Release    string   // codename or suite: "trixie", "stable", "trixie-backports"
	Arch       string   // Debian's name of the architecture
	Packages   []string // each a name, name=version, name:arch or name:arch=version
	Exclude    []string // names that are never chosen, even where something depends on them
	Recommends bool     // also what is recommended, where it can be had
	Essential  bool     // also all packages marked Essential
	Required   bool     // also all packages of priority required
}

// normal gives the request in the one form in which equal requests are equal.
func (r Request) normal() Request {
	sorted := func(list []string) []string {
		list = slices.Clone(list)
		slices.Sort(list)
		return slices.Compact(list)
	}
	r.Packages, r.Exclude = sorted(r.Packages), sorted(r.Exclude)
	return r
}

// check refuses what can't be right, whatever the archive has.
func (r Request) check() error {
	if !fs.ValidPath(r.Release) || !plainWord(strings.ReplaceAll(r.Release, "/", "-")) || r.Release == "." {
		return fmt.Errorf("release %q is not a name such as trixie or stable", r.Release)
	}
	if !plainWord(r.Arch) || r.Arch == "all" {
		return fmt.Errorf("architecture %q is not a name such as amd64 or arm64", r.Arch)
	}
	for _, name := range append(slices.Clone(r.Packages), r.Exclude...) {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return fmt.Errorf("package %q is not written name, name=version or name:arch", name)
		}
	}
	return nil
}

// plainWord reports whether s is made of what names of releases and
// architectures are made of.
func plainWord(s string) bool {
	const ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+~-_"
	return s != "" && len(s) <= 100 && strings.Trim(s, ok) == ""
}

// options lists the fields that are not zero, as words of the lock's file.
func (r Request) options() []string {
	var out []string
	for _, o := range []struct {
		on   bool
		word string
	}{{r.Recommends, "recommends"}, {r.Essential, "essential"}, {r.Required, "required"}} {
		if o.on {
			out = append(out, o.word)
		}
	}
	return out
}

// Lock pins the outcome of resolving a request.
type Lock struct {
	Request  Request
	Date     time.Time // of the release's InRelease; a good SOURCE_DATE_EPOCH
	Packages []Pin     // in the order in which they are unpacked
}

// Pin is one package of a lock.
type Pin struct {
	Name    string
	Arch    string // "all" or an architecture
	Version control.Version
	SHA256  [32]byte
	Size    int64  // of the .deb, in bytes
	Archive string // "debian" or "debian-security"
	Path    string // below the archive's root
}

// String is name:arch=version.
func (p *Pin) String() string { return p.Name + ":" + p.Arch + "=" + p.Version.String() }

// Key names the package's content, as the store does.
func (p *Pin) Key() string { return hex.EncodeToString(p.SHA256[:]) }

// Locks is what a wolffia.lock holds: one lock for each image of a file.
type Locks []*Lock

// Find gives the lock of a request, or nil. A request that changed in any way
// is another one.
func (l Locks) Find(r Request) *Lock {
	key := requestText(r)
	for _, lock := range l {
		if requestText(lock.Request) == key {
			return lock
		}
	}
	return nil
}

// Put adds a lock, in the place of the one of the same request if there is one.
func (l Locks) Put(lock *Lock) Locks {
	key := requestText(lock.Request)
	out := slices.DeleteFunc(slices.Clone(l), func(old *Lock) bool { return requestText(old.Request) == key })
	out = append(out, lock)
	slices.SortFunc(out, func(a, b *Lock) int { return strings.Compare(requestText(a.Request), requestText(b.Request)) })
	return out
}

// Keep leaves out the locks of other requests than these.
func (l Locks) Keep(requests ...Request) Locks {
	keep := map[string]bool{}
	for _, r := range requests {
		keep[requestText(r)] = true
	}
	return slices.DeleteFunc(slices.Clone(l), func(old *Lock) bool { return !keep[requestText(old.Request)] })
}

// Digest identifies all that the lock pins: equal digests mean equal packages.
func (l *Lock) Digest() string {
	var b bytes.Buffer
	writeLock(&b, l)
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:])
}

// Size is the length in bytes of all packages together.
func (l *Lock) Size() int64 {
	var n int64
	for i := range l.Packages {
		n += l.Packages[i].Size
	}
	return n
}

const (
	lockHeader = `# wolffia.lock pins every package, so that the same inputs give the same bytes.
# Keep it with wolffia.yaml; --update makes it anew. Each package is a line:
# name, architecture, version, SHA-256, size in bytes, archive, path.

Lock-Format: 1
`
	maxLock         = 64 << 20
	maxLockPackages = 200000
)

func requestText(r Request) string {
	r = r.normal()
	var b strings.Builder
	fmt.Fprintf(&b, "Release: %s\nArchitecture: %s\nRequest: %s\n", r.Release, r.Arch, strings.Join(r.Packages, " "))
	if len(r.Exclude) > 0 {
		fmt.Fprintf(&b, "Exclude: %s\n", strings.Join(r.Exclude, " "))
	}
	if o := r.options(); len(o) > 0 {
		fmt.Fprintf(&b, "With: %s\n", strings.Join(o, " "))
	}
	return b.String()
}

func writeLock(b *bytes.Buffer, l *Lock) {
	b.WriteString(requestText(l.Request))
	fmt.Fprintf(b, "Date: %s\nPackages:\n", l.Date.UTC().Format(time.RFC3339))
	for i := range l.Packages {
		p := &l.Packages[i]
		fmt.Fprintf(b, " %s %s %s %x %d %s %s\n", p.Name, p.Arch, p.Version, p.SHA256, p.Size, p.Archive, p.Path)
	}
}

// Bytes is the file's text. Equal locks give equal text.
func (l Locks) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString(lockHeader)
	for _, lock := range l {
		b.WriteByte('\n')
		writeLock(&b, lock)
	}
	return b.Bytes()
}

// WriteLocks writes a lock file, so that it is replaced whole or not at all. A
// file that would not change is left alone.
func WriteLocks(path string, l Locks) error { return WriteLockFile(path, l.Bytes()) }

// WriteLockFile is [WriteLocks] for who has more to say in the file.
func WriteLockFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".wolffia.lock-")
	if err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write lock file %s: %w", path, err)
	}
	return nil
}

// ReadLocks reads a lock file. One that is missing holds no locks.
func ReadLocks(path string) (Locks, error) {
	data, err := readBounded(path, maxLock)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lock file: %w", err)
	}
	l, err := ParseLocks(data)
	if err != nil {
		return nil, fmt.Errorf("read lock file %s: %w; remove it, or make it anew with --update", path, err)
	}
	return l, nil
}

// ParseLocks reads the text of a lock file.
func ParseLocks(data []byte) (Locks, error) {
	r := control.NewReader(bytes.NewReader(data), control.ReaderOptions{Comments: true, MaxParagraph: maxLock})
	head, err := r.Next()
	if err == io.EOF {
		return nil, errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	if f := head.Get("Lock-Format"); f != "1" {
		return nil, fmt.Errorf("line %d: format %q is not 1: it was written by another version of wolffia", head.Line, f)
	}
	var out Locks
	for {
		p, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		l, err := parseLock(p)
		if err != nil {
			return nil, fmt.Errorf("paragraph at line %d: %w", p.Line, err)
		}
		out = append(out, l)
	}
}

func parseLock(p *control.Paragraph) (*Lock, error) {
	l := &Lock{Request: Request{
		Release: p.Get("Release"), Arch: p.Get("Architecture"),
		Packages: strings.Fields(p.Get("Request")), Exclude: strings.Fields(p.Get("Exclude")),
	}}
	if l.Request.Release == "" || l.Request.Arch == "" {
		return nil, errors.New("field Release or Architecture is missing")
	}
	for _, word := range strings.Fields(p.Get("With")) {
		flag := map[string]*bool{"recommends": &l.Request.Recommends, "essential": &l.Request.Essential, "required": &l.Request.Required}[word]
		if flag == nil {
			return nil, fmt.Errorf("field With: unknown word %q", word)
		}
		*flag = true
	}
	var err error
	if l.Date, err = time.Parse(time.RFC3339, p.Get("Date")); err != nil {
		return nil, fmt.Errorf("field Date: %w", err)
	}
	l.Date = l.Date.UTC()
	for line := range strings.SplitSeq(p.Get("Packages"), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		pin, err := parsePin(line)
		if err != nil {
			return nil, fmt.Errorf("package %q: %w", strings.TrimSpace(line), err)
		}
		if len(l.Packages) == maxLockPackages {
			return nil, fmt.Errorf("more than %d packages", maxLockPackages)
		}
		l.Packages = append(l.Packages, pin)
	}
	return l, nil
}

func parsePin(line string) (Pin, error) {
	f := strings.Fields(line)
	if len(f) != 7 {
		return Pin{}, errors.New("it is not name, architecture, version, SHA-256, size, archive, path")
	}
	p := Pin{Name: f[0], Arch: f[1], Archive: f[5], Path: f[6]}
	var err error
	if p.Version, err = control.ParseVersion(f[2]); err != nil {
		return Pin{}, err
	}
	sum, err := hex.DecodeString(f[3])
	if err != nil || len(sum) != 32 {
		return Pin{}, fmt.Errorf("%q is not a SHA-256", f[3])
	}
	copy(p.SHA256[:], sum)
	if p.Size, err = strconv.ParseInt(f[4], 10, 64); err != nil || p.Size < 0 {
		return Pin{}, fmt.Errorf("%q is not a size", f[4])
	}
	return p, p.check()
}

// check refuses what no archive has and what would reach outside of it.
func (p *Pin) check() error {
	switch {
	case !control.ValidName(p.Name):
		return fmt.Errorf("%q is not a package's name", p.Name)
	case p.Archive != archiveMain && p.Archive != archiveSecurity:
		return fmt.Errorf("archive %q is neither %s nor %s", p.Archive, archiveMain, archiveSecurity)
	case !fs.ValidPath(p.Path) || strings.ContainsFunc(p.Path, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return fmt.Errorf("%q is not a path below an archive's root", p.Path)
	case !plainWord(p.Arch):
		return fmt.Errorf("%q is not an architecture", p.Arch)
	case p.SHA256 == [32]byte{}:
		return errors.New("it has no SHA-256")
	}
	return nil
}
