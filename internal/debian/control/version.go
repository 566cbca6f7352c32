package control

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a Debian package version, [epoch:]upstream[-revision]. Two
// versions that compare as equal may be written in different ways (1.0 and
// 1.0-0), so compare with Compare, not with ==.
type Version struct {
	Epoch    uint32
	Upstream string
	Revision string // "" if the version has none, which orders like "0"
}

// ParseVersion reads a version as Policy 5.6.12 describes it. Like dpkg it
// lets an upstream version start with a letter; unlike dpkg, which only warns,
// it refuses characters that are not allowed.
func ParseVersion(s string) (Version, error) {
	var v Version
	rest := s
	if epoch, after, ok := strings.Cut(s, ":"); ok {
		n, err := strconv.ParseUint(epoch, 10, 31)
		if err != nil {
			return v, fmt.Errorf("parse version %q: the epoch is not a number from 0 to 2147483647", clip(s))
		}
		v.Epoch, rest = uint32(n), after
	}
	v.Upstream = rest
	if i := strings.LastIndexByte(rest, '-'); i >= 0 {
		v.Upstream, v.Revision = rest[:i], rest[i+1:]
		if v.Revision == "" {
			return Version{}, fmt.Errorf("parse version %q: nothing follows the last hyphen", clip(s))
		}
	}
	if v.Upstream == "" {
		return Version{}, fmt.Errorf("parse version %q: the upstream version is empty", clip(s))
	}
	if c, ok := strange(v.Upstream, "-.+~:"); ok {
		return Version{}, fmt.Errorf("parse version %q: character %q is not allowed", clip(s), c)
	}
	if c, ok := strange(v.Revision, ".+~"); ok {
		return Version{}, fmt.Errorf("parse version %q: character %q is not allowed in a revision", clip(s), c)
	}
	return v, nil
}

// strange finds the first byte that is neither alphanumeric nor in also.
func strange(s, also string) (byte, bool) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isDigit(c) && !isLetter(c) && strings.IndexByte(also, c) < 0 {
			return c, true
		}
	}
	return 0, false
}

// String writes the version as dpkg does: an epoch of 0 is left out, unless
// the upstream version would then be misread.
func (v Version) String() string {
	s := v.Upstream
	if v.Epoch != 0 || strings.IndexByte(v.Upstream, ':') >= 0 {
		s = strconv.FormatUint(uint64(v.Epoch), 10) + ":" + s
	}
	if v.Revision != "" {
		s += "-" + v.Revision
	}
	return s
}

// IsZero reports whether v is the zero Version, which is not a valid one.
func (v Version) IsZero() bool { return v == Version{} }

// Compare orders versions as dpkg does: -1 if v is earlier than w, 0 if they
// are equal, 1 if v is later.
func (v Version) Compare(w Version) int {
	switch {
	case v.Epoch < w.Epoch:
		return -1
	case v.Epoch > w.Epoch:
		return 1
	}
	if c := comparePart(v.Upstream, w.Upstream); c != 0 {
		return c
	}
	return comparePart(v.Revision, w.Revision)
}

// comparePart is dpkg's verrevcmp: stretches of non-digits compare by
// character (tilde before the end, the end before letters, letters before all
// else), stretches of digits by number.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			if ca, cb := order(a), order(b); ca != cb {
				if ca < cb {
					return -1
				}
				return 1
			}
			// Equal weights mean that both have this character.
			a, b = a[1:], b[1:]
		}
		var na, nb string
		na, a = digits(a)
		nb, b = digits(b)
		switch {
		case len(na) < len(nb):
			return -1
		case len(na) > len(nb):
			return 1
		}
		if c := strings.Compare(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

// order is the weight of the first character of s. A digit weighs as much as
// the end: both close a stretch of non-digits.
func order(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isLetter(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

// digits cuts the leading number off s, without its leading zeros.
func digits(s string) (number, rest string) {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return strings.TrimLeft(s[:n], "0"), s[n:]
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
