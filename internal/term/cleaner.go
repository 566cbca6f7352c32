package term

import (
	"io"
	"unicode/utf8"
)

// Cleaner is [Clean] for a stream, such as what a machine's console said: it can
// be shown on a terminal without driving that. Whole escape sequences (ECMA-48,
// 5.4 and 5.6) are left out, as is the carriage return at a line's end. Make one
// with [NewCleaner].
type Cleaner struct {
	w     io.Writer
	state escapeState
	rest  []byte // the beginning of a letter that is not complete
	out   []byte
}

// NewCleaner makes a Cleaner that writes to w.
func NewCleaner(w io.Writer) *Cleaner { return &Cleaner{w: w} }

// escapeState is where in an escape sequence a stream is.
type escapeState int

const (
	plainText  escapeState = iota
	afterCR                // which may end a line
	afterESC               //
	inSequence             // of a control function, until a byte from @ to ~
	inCommand              // a string, until BEL or ST
	inCommand2             // in which ESC may begin ST
)

const (
	bel = 0x07
	esc = 0x1b
)

// Write writes what is harmless of p.
func (c *Cleaner) Write(p []byte) (int, error) {
	data := append(c.rest, p...)
	c.out = c.out[:0]
	for len(data) > 0 && (utf8.FullRune(data) || c.state > afterCR) {
		r, n := utf8.DecodeRune(data)
		if c.state > afterCR { // sequences are of bytes
			r, n = rune(data[0]), 1
		}
		data = data[n:]
		c.take(r)
	}
	c.rest = append([]byte(nil), data...)
	if _, err := c.w.Write(c.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *Cleaner) take(r rune) {
	switch c.state {
	case afterCR:
		c.state = plainText
		if r != '\n' { // the line would be written over
			c.put('\n')
		}
	case afterESC:
		switch {
		case r == '[':
			c.state = inSequence
		case r == ']' || r == 'P' || r == 'X' || r == '^' || r == '_':
			c.state = inCommand
		case r >= ' ' && r <= '/': // one more follows
		default:
			c.state = plainText
		}
		return
	case inSequence:
		if r >= '@' && r <= '~' {
			c.state = plainText
			return
		}
		if r >= ' ' {
			return
		}
		c.state = plainText // it is none
	case inCommand, inCommand2:
		switch {
		case r == bel || c.state == inCommand2 && r == '\\':
			c.state = plainText
		case r == esc:
			c.state = inCommand2
		case r == '\n': // one that never ends must not hide the rest
			c.state = plainText
			c.put('\n')
		default:
			c.state = inCommand
		}
		return
	}
	switch r {
	case esc:
		c.state = afterESC
	case '\r':
		c.state = afterCR
	default:
		c.put(harmless(r))
	}
}

func (c *Cleaner) put(r rune) { c.out = utf8.AppendRune(c.out, r) }
