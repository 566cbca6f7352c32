package control

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Field is one field of a paragraph. Value is the first line without the
// blanks around it; continuation lines follow, each after a newline and with
// the blank that introduces it, so that Name + ": " + Value is the field as it
// stands in the file.
type Field struct {
	Name  string
	Value string
}

// Paragraph is one stanza: its fields in the order of the file.
type Paragraph struct {
	Fields []Field
	Line   int // line of the first field, counted from 1
}

// Lookup gives a field's value. Names are compared without regard to case.
func (p *Paragraph) Lookup(name string) (string, bool) {
	for i := range p.Fields {
		if strings.EqualFold(p.Fields[i].Name, name) {
			return p.Fields[i].Value, true
		}
	}
	return "", false
}

// Get gives a field's value, "" if the field is absent.
func (p *Paragraph) Get(name string) string {
	v, _ := p.Lookup(name)
	return v
}

// Lines gives the lines of a multi-line field such as Release's SHA256,
// without the blanks around them and without empty ones.
func (p *Paragraph) Lines(name string) []string {
	var lines []string
	for line := range strings.SplitSeq(p.Get(name), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Set replaces a field's value, or adds the field at the end.
func (p *Paragraph) Set(name, value string) {
	for i := range p.Fields {
		if strings.EqualFold(p.Fields[i].Name, name) {
			p.Fields[i].Value = value
			return
		}
	}
	p.Fields = append(p.Fields, Field{name, value})
}

// String is the paragraph as deb822 text, without a blank line at its end.
func (p *Paragraph) String() string {
	var b strings.Builder
	for _, f := range p.Fields {
		b.WriteString(f.Name)
		b.WriteByte(':')
		if f.Value != "" && f.Value[0] != '\n' {
			b.WriteByte(' ')
		}
		b.WriteString(f.Value)
		b.WriteByte('\n')
	}
	return b.String()
}

// ReaderOptions bound a Reader. The zero value reads any real file.
type ReaderOptions struct {
	MaxLine      int  // bytes in one line; 0 means 1 MiB
	MaxParagraph int  // bytes in one paragraph; 0 means 16 MiB
	MaxFields    int  // fields in one paragraph; 0 means 1024
	Comments     bool // lines that start with # are skipped, as in .sources and debian/control
}

// Reader reads paragraphs one after another.
type Reader struct {
	r    *bufio.Reader
	opts ReaderOptions
	line int
	long []byte // a line longer than the bufio buffer, reused
	err  error
}

// NewReader reads paragraphs from r. It reads ahead.
func NewReader(r io.Reader, opts ReaderOptions) *Reader {
	if opts.MaxLine == 0 {
		opts.MaxLine = 1 << 20
	}
	if opts.MaxParagraph == 0 {
		opts.MaxParagraph = 16 << 20
	}
	if opts.MaxFields == 0 {
		opts.MaxFields = 1024
	}
	return &Reader{r: bufio.NewReaderSize(r, 64<<10), opts: opts}
}

// SyntaxError tells where a control file is malformed.
type SyntaxError struct {
	Line   int    // counted from 1
	Reason string // lower case, without the line
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

func (r *Reader) syntax(format string, args ...any) error {
	return &SyntaxError{Line: r.line, Reason: fmt.Sprintf(format, args...)}
}

// Next gives the next paragraph, or io.EOF after the last one. After an error
// it gives the same error again.
func (r *Reader) Next() (*Paragraph, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	return p, nil
}

func (r *Reader) next() (*Paragraph, error) {
	p := &Paragraph{}
	size := 0
	var value []byte // of the field being read, which is p.Fields' last
	flush := func() {
		if n := len(p.Fields); n > 0 {
			p.Fields[n-1].Value = string(value)
		}
	}
	for {
		line, err := r.readLine()
		if err == io.EOF && len(p.Fields) > 0 {
			flush()
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		if len(line) > 0 && line[0] == '#' {
			if r.opts.Comments {
				continue
			}
			return nil, r.syntax("a comment is not allowed here")
		}
		if isBlank(line) {
			if len(p.Fields) == 0 {
				continue // blank lines before a paragraph
			}
			flush()
			return p, nil
		}
		if size += len(line) + 1; size > r.opts.MaxParagraph {
			return nil, r.syntax("paragraph is longer than %d bytes", r.opts.MaxParagraph)
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(p.Fields) == 0 {
				return nil, r.syntax("continuation line without a field before it")
			}
			value = append(append(value, '\n'), trimRight(line)...)
			continue
		}
		flush()
		name, rest, err := splitField(line)
		if err != nil {
			return nil, r.syntax("%v", err)
		}
		if _, twice := p.Lookup(string(name)); twice {
			return nil, r.syntax("field %s stands twice in one paragraph", name)
		}
		if len(p.Fields) == r.opts.MaxFields {
			return nil, r.syntax("more than %d fields in one paragraph", r.opts.MaxFields)
		}
		if len(p.Fields) == 0 {
			p.Line = r.line
		}
		p.Fields = append(p.Fields, Field{Name: string(name)})
		value = append(value[:0], rest...)
	}
}

// readLine gives a line without its end, valid until the next call.
func (r *Reader) readLine() ([]byte, error) {
	r.long = r.long[:0]
	for {
		part, err := r.r.ReadSlice('\n')
		if len(r.long)+len(part) > r.opts.MaxLine+2 {
			r.line++
			return nil, r.syntax("line is longer than %d bytes", r.opts.MaxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			r.long = append(r.long, part...)
			continue
		}
		if len(r.long) > 0 {
			r.long = append(r.long, part...)
			part = r.long
		}
		if err == io.EOF && len(part) > 0 {
			err = nil
		}
		if err != nil {
			return nil, err
		}
		r.line++
		return trimEOL(part), nil
	}
}

func trimEOL(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

// isBlankByte: a carriage return counts as a blank, or a value that ends in it
// could not be written and read again.
func isBlankByte(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

func isBlank(line []byte) bool { return len(trimLeft(line)) == 0 }

// trimLeft and trimRight are bytes.TrimLeft and TrimRight, which would build a
// set of characters for each of a million lines.
func trimLeft(b []byte) []byte {
	for len(b) > 0 && isBlankByte(b[0]) {
		b = b[1:]
	}
	return b
}

func trimRight(b []byte) []byte {
	for len(b) > 0 && isBlankByte(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// splitField cuts "Name: value" (Policy 5.1: a name is printable ASCII without
// space and colon, and starts with neither # nor -).
func splitField(line []byte) (name, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, fmt.Errorf("%q is not a field: want \"Name: value\"", clip(line))
	}
	name = line[:colon]
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return nil, nil, fmt.Errorf("field name %q holds a character that names can't have", clip(name))
		}
	}
	if name[0] == '-' || name[0] == '#' {
		return nil, nil, fmt.Errorf("field name %q can't start with %q", clip(name), name[0])
	}
	return name, trimLeft(trimRight(line[colon+1:])), nil
}

// clip bounds what an error quotes.
func clip[T string | []byte](s T) string {
	if len(s) > 60 {
		return string(s[:57]) + "..."
	}
	return string(s)
}
