package fat

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// shortName is the eleven bytes of a name in a directory, without its dot,
// filled up with spaces.
type shortName [11]byte

// Bits of dirent.Case, by which Windows NT stores short names in small letters.
const (
	lowerBase = 0x08
	lowerExt  = 0x10
)

const maxName = 255 // UTF-16 code units

// shortChar reports whether c may be in a short name of ours. Capitals only,
// and nothing whose meaning depends on a code page.
func shortChar(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'()-@^_`{}~", c) >= 0
}

// checkName gives a name in UTF-16, or why FAT can't hold it.
func checkName(name string) ([]uint16, error) {
	if !utf8.ValidString(name) {
		return nil, errors.New("FAT can't hold a name that is not UTF-8")
	}
	for _, r := range name {
		if r < ' ' || strings.ContainsRune(`"*/:<>?\|`, r) || r == 0xFFFE || r == 0xFFFF {
			return nil, fmt.Errorf("FAT can't hold a name with the character %q", r)
		}
	}
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return nil, errors.New("FAT can't hold a name that ends in a dot or a space")
	}
	long := utf16.Encode([]rune(name))
	if len(long) > maxName {
		return nil, fmt.Errorf("FAT can't hold a name of more than %d UTF-16 units", maxName)
	}
	return long, nil
}

// fold gives what two names have in common that differ in case alone.
func fold(name string) string {
	return strings.Map(func(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }, name)
}

// exact gives the short name that is name, and its case bits.
func exact(name string) (s shortName, bits byte, ok bool) {
	base, ext, dot := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dot && ext == "" {
		return s, 0, false
	}
	for _, part := range []struct {
		text  string
		to    []byte
		lower byte
	}{{base, s[:8], lowerBase}, {ext, s[8:], lowerExt}} {
		upper := strings.ToUpper(part.text)
		switch {
		case part.text == upper:
		case part.text == strings.ToLower(part.text):
			bits |= part.lower
		default:
			return s, 0, false
		}
		fill(part.to, upper)
		for i := range len(upper) {
			if !shortChar(upper[i]) {
				return s, 0, false
			}
		}
	}
	return s, bits, true
}

// fill copies text and fills up with spaces.
func fill(to []byte, text string) {
	for i := range to {
		to[i] = ' '
	}
	copy(to, text)
}

// text is the short name with its dot.
func (s shortName) text() string {
	base, ext := strings.TrimRight(string(s[:8]), " "), strings.TrimRight(string(s[8:]), " ")
	if ext != "" {
		return base + "." + ext
	}
	return base
}

// directory gives short names to the entries of one directory.
type directory struct {
	folded map[string]string // a folded name, and the entry that has it
	taken  map[shortName]bool
	tails  map[shortName]int // the last tail given to a basis
}

// newDirectory takes all names of the directory, so that no short name that is
// made later is that of another entry.
func newDirectory(names []string) (*directory, error) {
	d := &directory{folded: map[string]string{}, taken: map[shortName]bool{}, tails: map[shortName]int{}}
	for _, name := range names {
		key := fold(name)
		if other, ok := d.folded[key]; ok {
			return nil, fmt.Errorf("FAT can't hold both %q and %q: they differ in case alone", other, name)
		}
		d.folded[key] = name
		if s, _, ok := exact(strings.ToUpper(name)); ok {
			d.taken[s] = true
		}
	}
	return d, nil
}

// short makes the short name of an entry, and tells whether that is all of it,
// so that no long name is needed.
func (d *directory) short(name string) (s shortName, bits byte, whole bool, err error) {
	if s, bits, ok := exact(name); ok {
		return s, bits, true, nil
	}
	if s, _, ok := exact(strings.ToUpper(name)); ok {
		return s, 0, false, nil
	}
	s, err = d.tailed(basis(name))
	return s, 0, false, err
}

// basis is the "basis name" of the specification: capitals, without spaces and
// leading dots, an underscore for all that a short name may not have, cut off
// to eight and three.
func basis(name string) (s shortName) {
	name = strings.TrimLeft(strings.ReplaceAll(strings.ToUpper(name), " ", ""), ".")
	base, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		base, ext = name[:i], name[i+1:]
	}
	clean := func(text string, n int) string {
		var b strings.Builder
		for _, r := range text {
			switch {
			case b.Len() == n:
				return b.String()
			case r == '.':
			case r < 0x80 && shortChar(byte(r)):
				b.WriteByte(byte(r))
			default:
				b.WriteByte('_')
			}
		}
		return b.String()
	}
	fill(s[:8], clean(base, 8))
	fill(s[8:], clean(ext, 3))
	return s
}

// tailed puts the first free of ~1, ~2, … at the basis's end.
func (d *directory) tailed(s shortName) (shortName, error) {
	base := strings.TrimRight(string(s[:8]), " ")
	for n := d.tails[s] + 1; n <= 999999; n++ {
		tail := fmt.Sprintf("~%d", n)
		try := s
		fill(try[:8], base[:min(len(base), 8-len(tail))]+tail)
		if !d.taken[try] {
			d.taken[try] = true
			d.tails[s] = n
			return try, nil
		}
	}
	return s, errors.New("there is no short name left for it")
}

// checksum binds a long name to its short one.
func (s shortName) checksum() byte {
	var sum byte
	for _, c := range s {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
