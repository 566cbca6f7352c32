package filter

// arith is a number that a frame gives: all arithmetic is that of BPF, on 32
// bits without sign.
type arith struct {
	// eval computes it; ok is false when the frame is too short, or when it
	// would divide by zero.
	eval func(p Packet) (n uint32, ok bool)
	// needs is what a frame must be for the bytes that are asked for to be
	// there ("tcp" for tcp[13]), or nil.
	needs test
	// isConstant tells that eval gives constant for every frame.
	isConstant bool
	constant   uint32
}

func constant(n uint32) arith {
	return arith{
		eval:       func(Packet) (uint32, bool) { return n, true },
		isConstant: true,
		constant:   n,
	}
}

func frameLength() arith {
	return arith{eval: func(p Packet) (uint32, bool) { return uint32(p.Length), true }}
}

func negate(a arith) arith { return operate("-", constant(0), a) }

// operators give the precedence and the meaning of each; a higher one binds
// more tightly. The result is not ok where BPF ends the program.
var operators = map[string]struct {
	precedence int
	compute    func(a, b uint32) (n uint32, ok bool)
}{
	"|":  {1, func(a, b uint32) (uint32, bool) { return a | b, true }},
	"^":  {2, func(a, b uint32) (uint32, bool) { return a ^ b, true }},
	"&":  {3, func(a, b uint32) (uint32, bool) { return a & b, true }},
	"<<": {4, func(a, b uint32) (uint32, bool) { return a << b, true }}, // 0 from 32 on
	">>": {4, func(a, b uint32) (uint32, bool) { return a >> b, true }},
	"+":  {5, func(a, b uint32) (uint32, bool) { return a + b, true }},
	"-":  {5, func(a, b uint32) (uint32, bool) { return a - b, true }},
	"*":  {6, func(a, b uint32) (uint32, bool) { return a * b, true }},
	"/": {6, func(a, b uint32) (uint32, bool) {
		if b == 0 {
			return 0, false
		}
		return a / b, true
	}},
	"%": {6, func(a, b uint32) (uint32, bool) {
		if b == 0 {
			return 0, false
		}
		return a % b, true
	}},
}

// badOperand says what is wrong with a constant on the right of an operator,
// or nothing.
func badOperand(op string, b arith) string {
	switch {
	case !b.isConstant:
	case op == "/" && b.constant == 0:
		return "division by zero"
	case op == "%" && b.constant == 0:
		return "remainder of a division by zero"
	case (op == "<<" || op == ">>") && b.constant > 31:
		return "shift by more than 31 bits"
	}
	return ""
}

func operate(op string, a, b arith) arith {
	compute := operators[op].compute
	if a.isConstant && b.isConstant {
		if n, ok := compute(a.constant, b.constant); ok {
			return constant(n)
		}
	}
	left, right := a.eval, b.eval
	return arith{
		eval: func(p Packet) (uint32, bool) {
			x, ok := left(p)
			if !ok {
				return 0, false
			}
			y, ok := right(p)
			if !ok {
				return 0, false
			}
			return compute(x, y)
		},
		needs: both(a.needs, b.needs),
	}
}

// both joins two tests, either of which may be nil.
func both(a, b test) test {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return every(a, b)
}

// relations are the comparisons.
var relations = map[string]func(a, b uint32) bool{
	"=":  func(a, b uint32) bool { return a == b },
	"==": func(a, b uint32) bool { return a == b },
	"!=": func(a, b uint32) bool { return a != b },
	"<":  func(a, b uint32) bool { return a < b },
	"<=": func(a, b uint32) bool { return a <= b },
	">":  func(a, b uint32) bool { return a > b },
	">=": func(a, b uint32) bool { return a >= b },
}

func compare(relation string, a, b arith) test {
	holds, left, right := relations[relation], a.eval, b.eval
	comparison := func(p Packet) verdict {
		x, ok := left(p)
		if !ok {
			return tooShort
		}
		y, ok := right(p)
		if !ok {
			return tooShort
		}
		return verdictOf(holds(x, y))
	}
	return both(both(a.needs, b.needs), comparison)
}

// access is the number of size bytes at an offset into a protocol's header.
func (l layout) access(of protocol, index arith, size int) arith {
	at := index.eval
	fixed := func(base int) func(p Packet) (uint32, bool) {
		return func(p Packet) (uint32, bool) {
			i, ok := at(p)
			if !ok {
				return 0, false
			}
			return load(p, uint64(uint32(base)+i), size)
		}
	}
	switch {
	case of.carrier == link:
		return arith{eval: fixed(0), needs: index.needs}
	case of.carrier == inEther:
		return arith{eval: fixed(l.payload), needs: both(index.needs, l.word(of))}
	case of.carrier == inIPv6:
		// As libpcap has it: right behind the fixed header, or not at all.
		there := every(l.ether(etherIPv6), field(l.payload+6, 1, whole, of.number))
		return arith{eval: fixed(l.payload + 40), needs: both(index.needs, there)}
	}
	ip := l.payload
	return arith{
		eval: func(p Packet) (uint32, bool) {
			i, ok := at(p)
			if !ok {
				return 0, false
			}
			header, ok := headerLength(p, ip)
			if !ok {
				return 0, false
			}
			return load(p, uint64(i+uint32(header))+uint64(ip), size)
		},
		needs: both(index.needs, every(l.ether(etherIPv4), l.word(of), field(ip+6, 2, 0x1fff, 0))),
	}
}
