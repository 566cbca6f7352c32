package debian

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wolffia/internal/debian/control"
)

// Source is one entry of apt's sources: one URI and one suite.
type Source struct {
	URI        string
	Suite      string // such as "trixie-updates"; ends with "/" for flat archives
	Components []string
	SignedBy   []string // paths of keyrings, or fingerprints
	Key        string   // an armored public key that stands in the file itself
	Archs      []string // empty means all
	Where      string   // file:line
}

// Bounds of apt's sources: they are written by hand.
const (
	maxSourcesFile = 1 << 20
	maxSources     = 10000
)

// ReadSources reads apt's sources below dir, which is /etc/apt on a Debian
// host: sources.list and sources.list.d/*.list in the one-line style,
// sources.list.d/*.sources in deb822 style, in apt's order. What is malformed is
// reported together, beside all that is not. A missing folder is empty.
func ReadSources(dir string) ([]Source, error) {
	var out []Source
	var errs []error
	for _, f := range sourceFiles(dir) {
		data, err := readBounded(f, maxSourcesFile)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		parse := ParseSourcesList
		if strings.HasSuffix(f, ".sources") {
			parse = ParseSources
		}
		list, err := parse(data, f)
		out = append(out, list...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// sourceFiles lists the files that apt would read: see "sources.list.d" in
// sources.list(5) for the names it takes.
func sourceFiles(dir string) []string {
	files := []string{filepath.Join(dir, "sources.list")}
	entries, _ := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	for _, e := range entries {
		name := e.Name()
		plain := strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == ""
		if plain && name[0] != '.' && (strings.HasSuffix(name, ".list") || strings.HasSuffix(name, ".sources")) {
			files = append(files, filepath.Join(dir, "sources.list.d", name))
		}
	}
	return files
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, limit)
	}
	return data, err
}

// ParseSourcesList reads the one-line style:
//
//	deb [ option=value ... ] uri suite component ...
//
// Entries for sources (deb-src) are passed over. The error names the lines that
// are malformed; the entries on the others are given all the same.
func ParseSourcesList(data []byte, file string) ([]Source, error) {
	var out []Source
	var errs []error
	n := 0
	for line := range bytes.Lines(data) {
		n++
		text, _, _ := strings.Cut(string(line), "#")
		text = strings.TrimSpace(text)
		if text == "" || len(out) >= maxSources {
			continue
		}
		where := fmt.Sprintf("%s:%d", file, n)
		s, ok, err := parseSourceLine(text)
		if err != nil && len(errs) < 10 {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
		if ok {
			s.Where = where
			out = append(out, s)
		}
	}
	return out, errors.Join(errs...)
}

func parseSourceLine(text string) (s Source, ok bool, err error) {
	kind, rest := cutBlank(text)
	switch kind {
	case "deb":
	case "deb-src", "rpm", "rpm-src":
		return s, false, nil
	default:
		return s, false, fmt.Errorf("type %q is neither deb nor deb-src", kind)
	}
	if strings.HasPrefix(rest, "[") {
		opts, after, found := strings.Cut(rest[1:], "]")
		if !found {
			return s, false, errors.New("option list has no closing ]")
		}
		rest = strings.TrimSpace(after)
		for _, o := range strings.Fields(opts) {
			name, value, _ := strings.Cut(o, "=")
			switch strings.TrimRight(name, "+-") {
			case "signed-by":
				s.SignedBy = append(s.SignedBy, splitComma(value)...)
			case "arch":
				s.Archs = append(s.Archs, splitComma(value)...)
			}
		}
	}
	if s.URI, rest = cutURI(rest); s.URI == "" {
		return s, false, errors.New("no URI")
	}
	s.Suite, rest = cutBlank(rest)
	s.Components = strings.Fields(rest)
	if s.Suite == "" {
		return s, false, errors.New("no suite")
	}
	if len(s.Components) == 0 && !strings.HasSuffix(s.Suite, "/") {
		return s, false, errors.New("no component")
	}
	return s, true, nil
}

// cutURI takes the first word, within which blanks may stand between brackets,
// as in "cdrom:[Debian 12]/".
func cutURI(s string) (uri, rest string) {
	depth := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '[':
			depth++
		case c == ']' && depth > 0:
			depth--
		case (c == ' ' || c == '\t') && depth == 0:
			return s[:i], strings.TrimSpace(s[i:])
		}
	}
	return s, ""
}

func cutBlank(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimSpace(s[i:])
	}
	return s, ""
}

func splitComma(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })
}

// ParseSources reads deb822 style: paragraphs with Types, URIs, Suites,
// Components, Signed-By (paths, fingerprints, or a key itself), Architectures and
// Enabled. Every URI is combined with every suite.
func ParseSources(data []byte, file string) ([]Source, error) {
	var out []Source
	r := control.NewReader(bytes.NewReader(data), control.ReaderOptions{Comments: true})
	for {
		p, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("%s: %w", file, err)
		}
		if !slices.Contains(strings.Fields(p.Get("Types")), "deb") || isNo(p.Get("Enabled")) {
			continue
		}
		base := Source{
			Components: strings.Fields(p.Get("Components")),
			Archs:      strings.Fields(p.Get("Architectures")),
			Where:      fmt.Sprintf("%s:%d", file, p.Line),
		}
		if key := p.Get("Signed-By"); strings.Contains(key, "-----BEGIN PGP") {
			base.Key = unfold(key)
		} else {
			base.SignedBy = strings.FieldsFunc(key, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
		}
		for _, uri := range strings.Fields(p.Get("URIs")) {
			for _, suite := range strings.Fields(p.Get("Suites")) {
				if len(out) >= maxSources {
					return out, fmt.Errorf("%s: more than %d combinations of URIs and suites", file, maxSources)
				}
				s := base
				s.URI, s.Suite = uri, suite
				out = append(out, s)
			}
		}
	}
}

// isNo is apt's idea of a false boolean.
func isNo(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "no", "false", "without", "off", "disable", "0":
		return true
	}
	return false
}

// unfold undoes deb822's way to keep lines: a blank before each, "." for empty.
func unfold(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if l = strings.TrimSpace(l); l == "." {
			l = ""
		}
		lines[i] = l
	}
	return strings.TrimSpace(strings.Join(lines, "\n")) + "\n"
}
