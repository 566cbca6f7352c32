package filter

import (
	"fmt"
	"slices"

	"wolffia/internal/spell"
)

// parser is a recursive descent over the tokens that compiles as it goes,
// because "vlan" changes what the rest of the expression means.
type parser struct {
	expression string
	tokens     []token
	at         int
	depth      int
	names      Options
	layout     layout
	// last are the qualifiers of the primitive before: what a bare "443" after
	// "port 80 or" means. Its address kind is noAddress where it means nothing.
	last qualifiers
}

// qualifiers are what stands before an address, a port or a number.
type qualifiers struct {
	protocol  protocol
	direction direction
	kind      addressKind
}

type addressKind uint8

const (
	noAddress addressKind = iota
	unsaid                // "src X": a host
	host
	network
	port
	portRange
	protoNumber
)

var addressKinds = map[string]addressKind{
	"host": host, "net": network, "port": port, "portrange": portRange, "proto": protoNumber,
}

// value is what a part of an expression comes to: a test, or a number that
// waits for an operator or a comparison.
type value struct {
	test  test
	arith arith
	start token
	// literal tells that the number is a single token, which may be a port or
	// an address as well.
	literal bool
}

func (v value) isNumber() bool { return v.test == nil }

func parse(expression string, o Options) (test, error) {
	tokens, err := lex(expression)
	if err != nil {
		return nil, err
	}
	p := &parser{expression: expression, tokens: tokens, names: o, layout: untagged}
	if p.peek().kind == endToken {
		return func(Packet) verdict { return yes }, nil
	}
	v, err := p.chain()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != endToken {
		return nil, p.unexpected(t, `"and", "or" or the end`)
	}
	return p.settle(v)
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != endToken {
		p.at++
	}
	return t
}

// is says whether the token ahead is one of the keywords or marks.
func (p *parser) is(texts ...string) bool {
	t := p.peek()
	return (t.kind == wordToken || t.kind == markToken) && slices.Contains(texts, t.text)
}

// accept takes the token ahead if it is one of the keywords or marks.
func (p *parser) accept(texts ...string) bool {
	if !p.is(texts...) {
		return false
	}
	p.at++
	return true
}

func (p *parser) expect(mark, after string) error {
	if !p.accept(mark) {
		return p.unexpected(p.peek(), fmt.Sprintf("%q %s", mark, after))
	}
	return nil
}

func (p *parser) errorAt(t token, format string, args ...any) *SyntaxError {
	return &SyntaxError{Expression: p.expression, Offset: t.at, Problem: fmt.Sprintf(format, args...)}
}

// unexpected is the error for a token that can't stand where it does.
func (p *parser) unexpected(t token, want string) *SyntaxError {
	err := p.errorAt(t, "%v stands where %s was expected", t, want)
	if t.kind == wordToken {
		err.Suggestion = nearestWord(t.text)
	}
	return err
}

// nearestWord finds the keyword that a word was probably meant to be.
func nearestWord(word string) string {
	words := []string{
		"host", "net", "port", "portrange", "proto", "src", "dst", "and", "or", "not", "len", "less", "greater",
		"broadcast", "multicast", "vlan", "inbound", "outbound", "mask",
	}
	for _, p := range protocols {
		words = append(words, p.word)
	}
	near := spell.Nearest(word, words)
	if near == word {
		return "" // right, but in the wrong place
	}
	return near
}

// enter counts a level of nesting; the caller leaves it with p.depth--.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return p.errorAt(p.peek(), "the expression nests deeper than %d levels", maxDepth)
	}
	return nil
}

// chain parses conditions joined with "and" and "or", which bind equally and
// from left to right. A number comes back as it is if it stands alone.
func (p *parser) chain() (value, error) {
	left, err := p.condition()
	if err != nil {
		return value{}, err
	}
	for {
		var join func(...test) test
		switch {
		case p.accept("and", "&&"):
			join = every
		case p.accept("or", "||"):
			join = either
		default:
			return left, nil
		}
		a, err := p.settle(left)
		if err != nil {
			return value{}, err
		}
		right, err := p.condition()
		if err != nil {
			return value{}, err
		}
		b, err := p.settle(right)
		if err != nil {
			return value{}, err
		}
		left = value{test: join(a, b), start: left.start}
	}
}

// settle makes a test of a value: a number that nothing compares is an
// address or a port with the qualifiers of the primitive before.
func (p *parser) settle(v value) (test, error) {
	switch {
	case !v.isNumber():
		return v.test, nil
	case !v.literal:
		return nil, p.errorAt(v.start, "the number that begins with %v is not compared with anything", v.start)
	case p.last.kind == noAddress:
		return nil, p.errorAt(v.start, "%v says nothing by itself; write \"port\", \"host\" or the like before it", v.start)
	}
	return p.address(p.last, v.start)
}

// condition parses one operand of "and" and "or".
func (p *parser) condition() (value, error) {
	start := p.peek()
	if p.accept("not", "!") {
		if err := p.enter(); err != nil {
			return value{}, err
		}
		defer func() { p.depth-- }()
		v, err := p.condition()
		if err != nil {
			return value{}, err
		}
		t, err := p.settle(v)
		if err != nil {
			return value{}, err
		}
		return value{test: not(t), start: start}, nil
	}
	v, err := p.operand()
	if err != nil || !v.isNumber() {
		return v, err
	}
	if v, err = p.arithmetic(v, 1); err != nil {
		return value{}, err
	}
	return p.comparison(v)
}

// comparison parses "> 5" after a number, if it is there.
func (p *parser) comparison(left value) (value, error) {
	t := p.peek()
	if _, ok := relations[t.text]; !ok || t.kind != markToken {
		return left, nil
	}
	p.next()
	right, err := p.number(1)
	if err != nil {
		return value{}, err
	}
	p.last = qualifiers{}
	return value{test: compare(t.text, left.arith, right.arith), start: left.start}, nil
}

// arithmetic parses the operators after a number that bind at least as
// tightly as least.
func (p *parser) arithmetic(left value, least int) (value, error) {
	for {
		t := p.peek()
		op, ok := operators[t.text]
		if !ok || t.kind != markToken || op.precedence < least {
			return left, nil
		}
		p.next()
		right, err := p.number(op.precedence + 1)
		if err != nil {
			return value{}, err
		}
		if wrong := badOperand(t.text, right.arith); wrong != "" {
			return value{}, p.errorAt(right.start, "%s", wrong)
		}
		left = value{arith: operate(t.text, left.arith, right.arith), start: left.start}
	}
}

// number parses arithmetic where nothing else can stand.
func (p *parser) number(least int) (value, error) {
	start := p.peek()
	v, err := p.operand()
	if err != nil {
		return value{}, err
	}
	if !v.isNumber() {
		return value{}, p.errorAt(start, "a number was expected, and this is a condition")
	}
	return p.arithmetic(v, least)
}

// operand parses what no operator joins: parentheses, a number, a primitive,
// or a bare address after "or".
func (p *parser) operand() (value, error) {
	if err := p.enter(); err != nil {
		return value{}, err
	}
	defer func() { p.depth-- }()
	t := p.next()
	switch {
	case t.kind == markToken && t.text == "(":
		v, err := p.chain()
		if err != nil {
			return value{}, err
		}
		return v, p.expect(")", fmt.Sprintf("for the parenthesis of column %d", t.at+1))
	case t.kind == markToken && t.text == "-":
		v, err := p.operand()
		if err == nil && !v.isNumber() {
			err = p.errorAt(v.start, "a number was expected, and this is a condition")
		}
		if err != nil {
			return value{}, err
		}
		return value{arith: negate(v.arith), start: t}, nil
	case t.kind == wordToken:
		return p.word(t)
	case t.kind == nameToken:
		return p.bare(t)
	}
	return value{}, p.unexpected(t, "a condition")
}

// word parses what a word begins.
func (p *parser) word(t token) (value, error) {
	if isNumber, n, err := number(t.text); isNumber {
		if err != nil {
			return value{}, p.errorAt(t, "%v", err)
		}
		return value{arith: constant(n), start: t, literal: true}, nil
	}
	if n, ok := constants[t.text]; ok {
		return value{arith: constant(n), start: t}, nil
	}
	if t.text == "len" || t.text == "length" {
		return value{arith: frameLength(), start: t}, nil
	}
	proto, isProto := protocolOf(t.text)
	if isProto && p.is("[") {
		return p.access(t, proto)
	}
	made, known, err := p.primitive(t, proto)
	if err != nil {
		return value{}, err
	}
	if !known {
		return p.bare(t)
	}
	return value{test: made, start: t}, nil
}

// bare parses an address without qualifiers of its own.
func (p *parser) bare(t token) (value, error) {
	if p.last.kind == noAddress {
		err := p.errorAt(t, "unknown word %v", t)
		if a := classify(t.text); t.kind == wordToken && a != aName {
			err.Problem = fmt.Sprintf("%v says nothing by itself", t)
			err.Suggestion = "host " + t.text
			if a == aMAC {
				err.Suggestion = "ether host " + t.text
			}
		} else {
			err.Suggestion = nearestWord(t.text)
		}
		return value{}, err
	}
	made, err := p.address(p.last, t)
	return value{test: made, start: t}, err
}

// access parses the brackets of tcp[13] or ether[12:2].
func (p *parser) access(t token, proto protocol) (value, error) {
	if !proto.indexed {
		return value{}, p.errorAt(t, "the bytes of %s can't be asked for; use ether[…]", proto.word)
	}
	p.next()
	index, err := p.number(1)
	if err != nil {
		return value{}, err
	}
	size := 1
	if p.accept(":") {
		t := p.next()
		switch t.text {
		case "1", "2", "4":
			size = int(t.text[0] - '0')
		default:
			return value{}, p.errorAt(t, "a size is 1, 2 or 4 bytes, not %v", t)
		}
	}
	if err := p.expect("]", fmt.Sprintf("for the bracket behind %s", t.text)); err != nil {
		return value{}, err
	}
	return value{arith: p.layout.access(proto, index.arith, size), start: t}, nil
}
