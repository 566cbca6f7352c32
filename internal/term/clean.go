package term

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes text of foreign origin, such as a guest's or an archive's, safe
// to show: control characters, which could drive the terminal, and those that
// turn the direction of writing, which could disguise words, become U+FFFD, as
// do bytes that are no UTF-8. Newlines and tabs stay.
func Clean(s string) string { return strings.Map(harmless, s) }

func harmless(r rune) rune {
	switch {
	case r == '\n' || r == '\t':
		return r
	case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
		return utf8.RuneError
	}
	return r
}
