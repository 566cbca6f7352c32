package control

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	packagesBuffer = 1 << 20 // first size of the read buffer
	maxStanza      = 8 << 20 // bytes of one paragraph of a Packages index
	maxPackages    = 4 << 20 // packages in one index
	maxInterned    = 4096    // distinct sections and architectures shared
)

// ParsePackages reads a Packages index, uncompressed, in the order of the
// file. keep, if not nil, says which packages are wanted; one that it rejects
// costs no memory, and keep must not hold on to its pointer.
//
// It knows the format as Reader does, but turns only the fields of Package
// into strings, and those of one package into a single one: that makes it
// fast enough for Debian's 50 MB. A stanza without a name, a version or an
// architecture, or with one of them malformed, is a *SyntaxError.
func ParsePackages(r io.Reader, keep func(*Package) bool) ([]*Package, error) {
	p := packagesParser{r: r, buf: make([]byte, packagesBuffer), interned: map[string]string{}}
	var out []*Package
	next := new(Package)
	for {
		switch err := p.next(next); {
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("parse package index: %w", err)
		}
		if keep != nil && !keep(next) {
			*next = Package{}
			continue
		}
		if len(out) == maxPackages {
			return nil, fmt.Errorf("parse package index: more than %d packages", maxPackages)
		}
		out = append(out, next)
		next = new(Package)
	}
}

// fieldID numbers the fields that a Package has.
type fieldID int8

const (
	fName fieldID = iota
	fVersion
	fArchitecture
	fMultiArch
	fEssential
	fPriority
	fSection
	fSource
	fPreDepends
	fDepends
	fRecommends
	fSuggests
	fProvides
	fConflicts
	fBreaks
	fReplaces
	fFilename
	fSize
	fSHA256
	fInstalledSize
	fieldCount
	fOther fieldID = -1
)

var fieldNames = [fieldCount]string{
	"Package", "Version", "Architecture", "Multi-Arch", "Essential", "Priority", "Section", "Source",
	"Pre-Depends", "Depends", "Recommends", "Suggests", "Provides", "Conflicts", "Breaks", "Replaces",
	"Filename", "Size", "SHA256", "Installed-Size",
}

// identify finds a field by name without regard to case.
func identify(name []byte) fieldID {
	for id, want := range fieldNames {
		if len(want) == len(name) && (want == string(name) || strings.EqualFold(want, string(name))) {
			return fieldID(id)
		}
	}
	return fOther
}

// packagesParser reads stanzas out of a buffer that holds the current one whole.
type packagesParser struct {
	r        io.Reader
	buf      []byte
	start    int // the current stanza starts here
	end      int // valid bytes end here
	eof      bool
	line     int
	interned map[string]string
}

func (p *packagesParser) syntax(format string, args ...any) error {
	return &SyntaxError{Line: p.line, Reason: fmt.Sprintf(format, args...)}
}

// readLine gives the line that starts at buf[pos] and where the next one
// starts. Offsets from p.start stay true when the buffer moves, so pos is
// relative to it.
func (p *packagesParser) readLine(pos int) (line []byte, next int, err error) {
	seen := p.start + pos
	for {
		if i := bytes.IndexByte(p.buf[seen:p.end], '\n'); i >= 0 {
			line = p.buf[p.start+pos : seen+i+1]
			p.line++
			return trimEOL(line), pos + len(line), nil
		}
		if p.eof {
			line = p.buf[p.start+pos : p.end]
			if len(line) == 0 {
				return nil, pos, io.EOF
			}
			p.line++
			return trimEOL(line), pos + len(line), nil
		}
		scanned := p.end - p.start
		if err := p.fill(); err != nil {
			return nil, pos, err
		}
		seen = p.start + scanned
	}
}

// fill reads more behind the current stanza, moving or growing the buffer.
func (p *packagesParser) fill() error {
	if p.start > 0 {
		copy(p.buf, p.buf[p.start:p.end])
		p.end -= p.start
		p.start = 0
	}
	if p.end == len(p.buf) {
		if len(p.buf) >= maxStanza {
			return p.syntax("paragraph is longer than %d bytes", maxStanza)
		}
		p.buf = append(p.buf, make([]byte, len(p.buf))...)
	}
	for range 100 {
		n, err := p.r.Read(p.buf[p.end:])
		p.end += n
		if err == io.EOF {
			p.eof = true
			return nil
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
	return io.ErrNoProgress
}

// span is where a value lies, relative to the start of the stanza.
type span struct{ from, to int }

// next reads one stanza into out, which is zero.
func (p *packagesParser) next(out *Package) error {
	var spans [fieldCount]span
	var have uint32
	current, started := fOther, false
	pos, first := 0, 0
	for {
		line, after, err := p.readLine(pos)
		if err == io.EOF && started {
			break
		}
		if err != nil {
			return err
		}
		if isBlank(line) {
			pos = after
			if started {
				break
			}
			p.start, pos = p.start+pos, 0
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if !started {
				return p.syntax("continuation line without a field before it")
			}
			if current != fOther {
				spans[current].to = pos + len(line)
			}
			pos = after
			continue
		}
		name, value, err := splitField(line)
		if err != nil {
			return p.syntax("%v", err)
		}
		if !started {
			started, first = true, p.line
		}
		if current = identify(name); current != fOther {
			if have&(1<<current) != 0 {
				return p.syntax("field %s stands twice in one paragraph", name)
			}
			have |= 1 << current
			from := pos + len(line) - len(trimLeft(line[len(name)+1:]))
			spans[current] = span{from, from + len(value)}
		}
		pos = after
	}
	stanza := p.buf[p.start : p.start+pos]
	p.start += pos
	if err := p.build(out, stanza, &spans); err != nil {
		name := stanza[spans[fName].from:spans[fName].to]
		return &SyntaxError{Line: first, Reason: fmt.Sprintf("package %q: %v", clip(name), err)}
	}
	return nil
}

// build makes the Package of a stanza.
func (p *packagesParser) build(out *Package, stanza []byte, spans *[fieldCount]span) error {
	// One string holds all values that are unlike those of other packages.
	own := [...]fieldID{fName, fVersion, fSource, fPreDepends, fDepends, fRecommends, fSuggests, fProvides, fConflicts, fBreaks, fReplaces, fFilename}
	total := 0
	for _, id := range own {
		total += spans[id].to - spans[id].from
	}
	var b strings.Builder
	b.Grow(total)
	for _, id := range own {
		b.Write(stanza[spans[id].from:spans[id].to])
	}
	rest := b.String()
	for _, id := range own {
		n := spans[id].to - spans[id].from
		var value string
		value, rest = rest[:n], rest[n:]
		if err := out.setText(id, value); err != nil {
			return err
		}
	}
	raw := func(id fieldID) []byte { return stanza[spans[id].from:spans[id].to] }
	out.Architecture = p.intern(raw(fArchitecture))
	out.Section = p.intern(raw(fSection))
	return out.setRest(raw)
}

func (p *packagesParser) intern(b []byte) string {
	if s, ok := p.interned[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(p.interned) < maxInterned {
		p.interned[s] = s
	}
	return s
}

// setText sets a field whose value is kept as a string of its own.
func (p *Package) setText(id fieldID, value string) (err error) {
	switch id {
	case fName:
		if p.Name = value; !ValidName(value) {
			return errors.New("the name is missing or malformed")
		}
	case fVersion:
		if value == "" {
			return errors.New("the version is missing")
		}
		p.Version, err = ParseVersion(value)
	case fSource:
		p.Source = value
	case fPreDepends:
		p.PreDepends = value
	case fDepends:
		p.Depends = value
	case fRecommends:
		p.Recommends = value
	case fSuggests:
		p.Suggests = value
	case fProvides:
		p.Provides = value
	case fConflicts:
		p.Conflicts = value
	case fBreaks:
		p.Breaks = value
	case fReplaces:
		p.Replaces = value
	case fFilename:
		p.Filename = value
	}
	return err
}

// setRest sets the fields that are not strings, and checks them all.
func (p *Package) setRest(raw func(fieldID) []byte) (err error) {
	if !validArch(p.Architecture) {
		return errors.New("the architecture is missing or malformed")
	}
	switch v := raw(fMultiArch); string(v) {
	case "", "no":
	case "same":
		p.MultiArch = MultiArchSame
	case "foreign":
		p.MultiArch = MultiArchForeign
	case "allowed":
		p.MultiArch = MultiArchAllowed
	default:
		return fmt.Errorf("multi-arch %q is unknown", clip(v))
	}
	switch v := raw(fEssential); string(v) {
	case "", "no":
	case "yes":
		p.Essential = true
	default:
		return fmt.Errorf("essential is %q, want yes or no", clip(v))
	}
	for i := PriorityExtra; i <= PriorityRequired; i++ {
		if string(raw(fPriority)) == priorityText[i] {
			p.Priority = i
		}
	}
	if p.Size, err = parseSize(raw(fSize), 1); err != nil {
		return fmt.Errorf("size: %w", err)
	}
	if p.InstalledSize, err = parseSize(raw(fInstalledSize), 1024); err != nil {
		return fmt.Errorf("installed size: %w", err)
	}
	if sum := raw(fSHA256); len(sum) > 0 {
		if len(sum) != 64 {
			return fmt.Errorf("SHA256 has %d digits, want 64", len(sum))
		}
		if _, err := hex.Decode(p.SHA256[:], sum); err != nil {
			return fmt.Errorf("SHA256: %w", err)
		}
	}
	return nil
}

// parseSize reads a count of units; none is 0.
func parseSize(b []byte, unit int64) (int64, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(b), 10, 52)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of bytes", clip(b))
	}
	return int64(n) * unit, nil
}
