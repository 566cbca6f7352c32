package importer

import (
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// value is a node of a YAML document, with aliases and merge keys resolved. A
// nil value has no content.
type value struct {
	line  int
	kind  kind
	text  string   // of a scalar, as it was written
	items []*value // of a list
	pairs []pair   // of a mapping, in its order, each key once
}

type kind int

const (
	scalar kind = iota
	list
	mapping
)

type pair struct {
	key   string
	line  int
	value *value
}

// Limits of a document: how deep collections may nest, and how many nodes there
// may be. An alias shares the nodes of what it stands for; what merge keys copy
// counts.
const (
	maxDepth = 30
	maxNodes = 100000
)

// get is the value of a key, or nil.
func (v *value) get(key string) *value {
	if v == nil {
		return nil
	}
	for _, p := range v.pairs {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

// yaml parses a document of one mapping. A mistake is reported, and gives nil.
func (r *reader) yaml(file, text string) *value {
	if deep(text) {
		r.fail(file, 0, "collections are nested more than %d deep", maxDepth)
		return nil
	}
	f, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		reason, line := err.Error(), 0
		if y, ok := err.(yaml.Error); ok {
			if t := y.GetToken(); t != nil && t.Position != nil {
				line = t.Position.Line
			}
			reason = y.GetMessage()
		}
		reason, _, _ = strings.Cut(reason, "\n")
		r.fail(file, line, "this is no YAML: %s", clean(reason))
		return nil
	}
	y := &resolver{r: r, file: file, anchors: map[string]*value{}}
	var root *value
	for _, doc := range f.Docs {
		v := y.value(doc.Body, 0)
		if v != nil && root != nil {
			r.fail(file, v.line, "the file holds more than one document")
			return nil
		}
		if v != nil {
			root = v
		}
	}
	if len(r.errs) == 0 && (root == nil || root.kind != mapping) {
		r.fail(file, 0, "this is no mapping (key: value), as a topology is")
	}
	if len(r.errs) > 0 {
		return nil
	}
	return root
}

// deep reports whether collections nest deeper than the parser, which recurses,
// should be asked to read: in brackets, by dashes on one line, or by indentation.
func deep(text string) bool {
	flow := 0
	var indents []int
	for line := range strings.SplitSeq(text, "\n") {
		body := strings.TrimLeft(line, " ")
		if body == "" || body[0] == '#' {
			continue
		}
		indent := len(line) - len(body)
		for len(indents) > 0 && indents[len(indents)-1] >= indent {
			indents = indents[:len(indents)-1]
		}
		if indents = append(indents, indent); len(indents) > 2*maxDepth {
			return true
		}
		if leading(body) > maxDepth {
			return true
		}
		for _, c := range line {
			switch c {
			case '[', '{':
				flow++
			case ']', '}':
				flow = max(0, flow-1)
			}
			if flow > maxDepth {
				return true
			}
		}
	}
	return false
}

// leading counts the dashes and question marks that a line begins with.
func leading(line string) (n int) {
	for _, c := range line {
		switch c {
		case '-', '?':
			n++
		case ' ':
		default:
			return n
		}
	}
	return n
}

// resolver turns a syntax tree into values.
type resolver struct {
	r       *reader
	file    string
	anchors map[string]*value
	nodes   int
}

func (y *resolver) fail(n ast.Node, format string, args ...any) {
	line := 0
	if n != nil {
		line = lineOf(n)
	}
	y.r.fail(y.file, line, format, args...)
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

func (y *resolver) value(n ast.Node, depth int) *value {
	if y.nodes++; y.nodes > maxNodes || depth > 4*maxDepth {
		if y.nodes == maxNodes+1 || depth > 4*maxDepth {
			y.fail(n, "there are more than %d values, or they nest too deep", maxNodes)
			y.nodes = maxNodes + 1
		}
		return nil
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.MappingNode:
		if len(n.Values) == 1 {
			if v := oneWord(n.Values[0]); v != nil {
				return v
			}
		}
		return y.mapping(n, n.Values, depth)
	case *ast.MappingValueNode:
		if v := oneWord(n); v != nil {
			return v
		}
		return y.mapping(n, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		v := &value{line: lineOf(n), kind: list}
		for _, item := range n.Values {
			v.items = append(v.items, y.value(item, depth+1))
		}
		return v
	case *ast.AnchorNode:
		v := y.value(n.Value, depth+1)
		if n.Name != nil {
			y.anchors[n.Name.String()] = v
		}
		return v
	case *ast.AliasNode:
		v, ok := y.anchors[n.Value.String()]
		if !ok {
			y.fail(n, "alias %.40q stands for nothing", clean(n.Value.String()))
		}
		return v
	case *ast.TagNode:
		return y.value(n.Value, depth+1)
	case *ast.LiteralNode:
		return &value{line: lineOf(n), text: n.Value.Value}
	case *ast.StringNode:
		return &value{line: lineOf(n), text: n.Value}
	case ast.ScalarNode:
		return &value{line: lineOf(n), text: n.GetToken().Value}
	}
	y.fail(n, "this is no value that a topology has")
	return nil
}

// oneWord undoes a mistake of the parser's: inside of braces it takes a:eth1 for
// a mapping, which would need a blank. It gives nil where there is one.
func oneWord(n *ast.MappingValueNode) *value {
	key, ok := n.Key.(ast.ScalarNode)
	word, plain := n.Value.(ast.ScalarNode)
	if !ok || !plain || key.GetToken() == nil || word.GetToken() == nil {
		return nil
	}
	k, w := key.GetToken(), word.GetToken()
	quoted := k.Type == token.SingleQuoteType || k.Type == token.DoubleQuoteType
	if quoted || k.Position == nil || w.Position == nil || k.Position.Line != w.Position.Line || w.Position.Column != k.Position.Column+len([]rune(k.Value))+1 {
		return nil
	}
	return &value{line: k.Position.Line, text: k.Value + ":" + w.Value}
}

func (y *resolver) mapping(n ast.Node, entries []*ast.MappingValueNode, depth int) *value {
	v := &value{line: lineOf(n), kind: mapping}
	at := map[string]int{}
	var merged []*value
	for _, e := range entries {
		if _, ok := e.Key.(*ast.MergeKeyNode); ok {
			m := y.value(e.Value, depth+1)
			if m != nil && m.kind == list {
				merged = append(merged, m.items...)
			} else {
				merged = append(merged, m)
			}
			continue
		}
		key, ok := e.Key.(ast.ScalarNode)
		if !ok {
			y.fail(e.Key, "a key must be a plain word")
			continue
		}
		name := key.GetToken().Value
		if s, ok := e.Key.(*ast.StringNode); ok {
			name = s.Value
		}
		if _, twice := at[name]; twice {
			y.fail(e.Key, "key %.60q is there twice", clean(name))
			continue
		}
		at[name] = len(v.pairs)
		v.pairs = append(v.pairs, pair{name, lineOf(e.Key), y.value(e.Value, depth+1)})
	}
	for _, m := range merged {
		if m == nil {
			continue
		}
		for _, p := range m.pairs {
			if y.nodes++; y.nodes > maxNodes {
				y.fail(n, "merge keys make more than %d values", maxNodes)
				return v
			}
			if _, has := at[p.key]; !has {
				at[p.key] = len(v.pairs)
				v.pairs = append(v.pairs, p)
			}
		}
	}
	return v
}
