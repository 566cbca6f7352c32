package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"wolffia/internal/spell"
)

// Error is one mistake in a file.
type Error struct {
	File         string
	Line, Column int // from 1
	Reason       string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Reason)
}

// Errors are all mistakes of one file, in its order.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// maxErrors bounds how many mistakes are listed, maxDepth how deep collections
// may nest, and maxEntries how many entries one may have.
const (
	maxErrors  = 50
	maxDepth   = 20
	maxEntries = 10000
)

// decoder walks the syntax tree of one file and collects mistakes.
type decoder struct {
	file string
	errs Errors
}

func (d *decoder) fail(n ast.Node, format string, args ...any) {
	if len(d.errs) >= maxErrors {
		return
	}
	e := &Error{File: d.file, Line: 1, Column: 1, Reason: fmt.Sprintf(format, args...)}
	if n != nil && n.GetToken() != nil && n.GetToken().Position != nil {
		e.Line, e.Column = n.GetToken().Position.Line, n.GetToken().Position.Column
	}
	d.errs = append(d.errs, e)
}

// root parses the text and gives the top mapping; nil after a mistake or for
// an empty file.
func (d *decoder) root(data []byte) ast.Node {
	if len(data) > MaxFile {
		d.fail(nil, "the file has more than %d bytes", MaxFile)
		return nil
	}
	if depth(data) > maxDepth {
		d.fail(nil, "collections are nested more than %d deep", maxDepth)
		return nil
	}
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		d.syntax(err)
		return nil
	}
	var docs []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	if len(docs) == 0 {
		return nil
	}
	if len(docs) > 1 {
		d.fail(docs[1], "the file holds more than one document")
	}
	return docs[0]
}

// depth is how deep flow collections nest and, roughly, block ones: the
// parser recurses for each, so it is bounded before.
func depth(data []byte) int {
	deepest, flow := 0, 0
	for line := range strings.SplitSeq(string(data), "\n") {
		dashes := 0
		for _, c := range line {
			switch c {
			case '[', '{':
				flow++
			case ']', '}':
				flow = max(0, flow-1)
			case '-', '?':
				dashes++
			case ' ':
				continue
			default:
				dashes = min(dashes, maxDepth-1)
			}
			deepest = max(deepest, flow)
			if dashes > 2*maxDepth && strings.Count(line, "- ") > maxDepth {
				return maxDepth + 1
			}
		}
	}
	return deepest
}

// syntax reports what the YAML parser says, in one line.
func (d *decoder) syntax(err error) {
	e := &Error{File: d.file, Line: 1, Column: 1, Reason: "this is no YAML: " + firstLine(err.Error())}
	var y yaml.Error
	if ok := asYAML(err, &y); ok {
		e.Reason = "this is no YAML: " + firstLine(y.GetMessage())
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	d.errs = append(d.errs, e)
}

func asYAML(err error, y *yaml.Error) bool {
	e, ok := err.(yaml.Error)
	*y = e
	return ok
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// entry is one key and value of a mapping.
type entry struct {
	name       string
	key, value ast.Node
}

// mapping gives the entries of a mapping in the file's order; duplicates are
// reported. what names it in the error for anything else.
func (d *decoder) mapping(n ast.Node, what string) []entry {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		d.fail(n, "%s must be a mapping (key: value), and is %s", what, kindOf(n))
		return nil
	}
	if len(values) > maxEntries {
		d.fail(n, "%s has more than %d entries", what, maxEntries)
		return nil
	}
	var out []entry
	seen := map[string]bool{}
	for _, v := range values {
		key, ok := v.Key.(ast.ScalarNode)
		if !ok {
			d.fail(v.Key, "%s: a key must be a plain word", what)
			continue
		}
		name := scalarText(key)
		if seen[name] {
			d.fail(v.Key, "%s names %q twice", what, name)
			continue
		}
		seen[name] = true
		out = append(out, entry{name, v.Key, v.Value})
	}
	return out
}

// sequence gives the items of a list. A single scalar is no list.
func (d *decoder) sequence(n ast.Node, what string) []ast.Node {
	switch s := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.SequenceNode:
		if len(s.Values) > maxEntries {
			d.fail(n, "%s has more than %d items", what, maxEntries)
			return nil
		}
		return s.Values
	}
	d.fail(n, "%s must be a list ([a, b]), and is %s", what, kindOf(n))
	return nil
}

// text gives the characters of a scalar as they were written; numbers and
// words such as "yes" are text, too.
func (d *decoder) text(n ast.Node, what string) (string, bool) {
	switch s := n.(type) {
	case *ast.LiteralNode:
		return s.Value.Value, true
	case *ast.NullNode, *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
	case ast.ScalarNode:
		return scalarText(s), true
	}
	d.fail(n, "%s must be text, and is %s", what, kindOf(n))
	return "", false
}

func scalarText(s ast.ScalarNode) string {
	if str, ok := s.(*ast.StringNode); ok {
		return str.Value
	}
	return s.GetToken().Value
}

func (d *decoder) boolean(n ast.Node, what string) (bool, bool) {
	if b, ok := n.(*ast.BoolNode); ok {
		return b.Value, true
	}
	d.fail(n, "%s must be true or false, and is %s", what, kindOf(n))
	return false, false
}

func (d *decoder) integer(n ast.Node, what string, low, high int) (int, bool) {
	if i, ok := n.(*ast.IntegerNode); ok {
		v, err := strconv.ParseInt(i.GetToken().Value, 0, 64)
		if err == nil && v >= int64(low) && v <= int64(high) {
			return int(v), true
		}
		d.fail(n, "%s is %s; it must be %d to %d", what, i.GetToken().Value, low, high)
		return 0, false
	}
	d.fail(n, "%s must be a number from %d to %d, and is %s", what, low, high, kindOf(n))
	return 0, false
}

func (d *decoder) texts(n ast.Node, what string) (out []string) {
	for _, item := range d.sequence(n, what) {
		if s, ok := d.text(item, "an item of "+what); ok {
			out = append(out, s)
		}
	}
	return out
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode:
		return "an anchor or alias, which wolffia does not read"
	case *ast.TagNode:
		return "tagged, which wolffia does not read"
	case ast.ScalarNode:
		return fmt.Sprintf("%.60q", n.GetToken().Value)
	}
	return "something else"
}

// key is one key of a mapping that becomes a T.
type key[T any] struct {
	name  string
	doc   string // one sentence for the schema and the manual
	shape shape
	set   func(d *decoder, n ast.Node, to *T)
}

// object reads a mapping with exactly these keys.
func object[T any](d *decoder, n ast.Node, what string, keys []key[T], to *T) {
	for _, e := range d.mapping(n, what) {
		i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == e.name })
		if i < 0 {
			names := make([]string, len(keys))
			for j := range keys {
				names[j] = keys[j].name
			}
			d.fail(e.key, "unknown key %q in %s; %s", e.name, what, suggestion(e.name, names))
			continue
		}
		keys[i].set(d, e.value, to)
	}
}

func suggestion(word string, valid []string) string {
	if near := spell.Nearest(word, valid); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "it may have " + strings.Join(valid, ", ")
}

// parsed reads text by a parse function, whose error becomes the file's.
func parsed[T any](d *decoder, n ast.Node, what string, parse func(string) (T, error), to *T) {
	s, ok := d.text(n, what)
	if !ok {
		return
	}
	v, err := parse(s)
	if err != nil {
		d.fail(n, "%s", err)
		return
	}
	*to = v
}

// choice reads one of a few words.
func choice[T ~string](d *decoder, n ast.Node, what string, valid []string, to *T) {
	s, ok := d.text(n, what)
	if !ok {
		return
	}
	if err := OneOf(what, s, valid); err != nil {
		d.fail(n, "%s", err)
		return
	}
	*to = T(s)
}
