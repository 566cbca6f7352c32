package filter

import (
	"fmt"
	"strconv"
	"strings"
)

// Bounds of an expression: its length in bytes, and how deep parentheses,
// brackets and negations may nest.
const (
	maxExpression = 16 << 10
	maxDepth      = 64
)

// SyntaxError tells what is wrong with an expression, and where.
type SyntaxError struct {
	Expression string
	Offset     int    // in bytes, of the word that is wrong
	Problem    string // a phrase
	Suggestion string // the word that was probably meant, or empty
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("filter expression, column %d: %s", e.Offset+1, e.Problem)
}

// Fix says what to write instead; it is empty when only the person can know.
func (e *SyntaxError) Fix() string {
	if e.Suggestion == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", e.Suggestion)
}

type kind uint8

const (
	endToken  kind = iota
	wordToken      // a keyword, a number, an address or a name
	nameToken      // a word after a backslash: never a keyword
	markToken      // an operator or a bracket
)

type token struct {
	kind kind
	text string
	at   int // offset in the expression
}

func (t token) String() string {
	if t.kind == endToken {
		return "the end"
	}
	return strconv.Quote(t.text)
}

// marks lists the operators, longer ones before their own beginnings.
var marks = []string{
	"<<", ">>", "<=", ">=", "==", "!=", "&&", "||",
	"<", ">", "=", "!", "&", "|", "^", "+", "-", "*", "/", "%", "(", ")", "[", "]", ":",
}

// lex cuts an expression into tokens; the last is an endToken. Between
// brackets a colon ends a word, because there it stands between an offset and
// a size; outside it belongs to addresses.
func lex(s string) ([]token, error) {
	if len(s) > maxExpression {
		return nil, &SyntaxError{s, maxExpression, fmt.Sprintf("the expression is longer than %d bytes", maxExpression), ""}
	}
	var tokens []token
	brackets := 0
	for at := 0; ; {
		at += len(s[at:]) - len(strings.TrimLeft(s[at:], " \t\r\n"))
		if at == len(s) {
			return append(tokens, token{endToken, "", at}), nil
		}
		t := next(s, at, brackets > 0)
		if t.text == "" {
			return nil, &SyntaxError{s, at, fmt.Sprintf("%q is not part of the language", firstRune(s[at:])), ""}
		}
		switch {
		case t.kind == markToken && t.text == "[":
			brackets++
		case t.kind == markToken && t.text == "]" && brackets > 0:
			brackets--
		}
		tokens = append(tokens, t)
		at += len(t.text)
		if t.kind == nameToken {
			at++ // the backslash
		}
	}
}

func next(s string, at int, inBrackets bool) token {
	rest := s[at:]
	if rest[0] == '\\' {
		return token{nameToken, rest[1 : 1+wordLength(rest[1:], false)], at}
	}
	if n := wordLength(rest, inBrackets); n > 0 {
		return token{wordToken, rest[:n], at}
	}
	for _, m := range marks {
		if strings.HasPrefix(rest, m) {
			return token{markToken, m, at}
		}
	}
	return token{}
}

// wordLength says how many bytes at the start of s are one word.
func wordLength(s string, inBrackets bool) int {
	if s == "" || !alphanumeric(s[0]) && !(strings.HasPrefix(s, "::") && !inBrackets) {
		return 0
	}
	more := "._-:"
	if inBrackets {
		more = "._-"
		if s[0] >= '0' && s[0] <= '9' {
			more = "" // a number: what follows is an operator
		}
	}
	n := 1
	for n < len(s) && (alphanumeric(s[n]) || strings.IndexByte(more, s[n]) >= 0) {
		n++
	}
	return len(strings.TrimRight(s[:n], "-_"))
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func firstRune(s string) string {
	for i := range s {
		if i > 0 {
			return s[:i]
		}
	}
	return s
}

// number reads what strtoul would: decimal, hexadecimal after 0x, octal after
// 0. The first result says whether text has the form of a number at all.
func number(text string) (isNumber bool, n uint32, err error) {
	digits, base := text, 10
	switch {
	case len(text) > 2 && (text[:2] == "0x" || text[:2] == "0X"):
		digits, base = text[2:], 16
	case text == "":
		return false, 0, nil
	case len(text) > 1 && text[0] == '0' && strings.Trim(text, "0123456789") == "":
		digits, base = text[1:], 8
	case strings.Trim(text, "0123456789") != "":
		return false, 0, nil
	}
	v, err := strconv.ParseUint(digits, base, 32)
	switch {
	case err == nil:
		return true, uint32(v), nil
	case base == 16 && strings.Trim(digits, "0123456789abcdefABCDEF") != "":
		return false, 0, nil
	case base == 8 && strings.ContainsAny(digits, "89"):
		return true, 0, fmt.Errorf("%s begins with 0, so it is octal, which has no digits 8 and 9", text)
	}
	return true, 0, fmt.Errorf("%s does not fit 32 bits", text)
}
