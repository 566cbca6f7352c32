package filter

import (
	"net"
	"net/netip"
)

// Options give an expression the names it may use.
type Options struct {
	// Hosts are what "host NAME" means: any of the name's addresses.
	Hosts map[string][]netip.Addr
	// Ethers are what "ether host NAME" means: any of the name's addresses,
	// of six bytes each.
	Ethers map[string][]net.HardwareAddr
	// Networks are what "net NAME" means: any of the name's prefixes.
	Networks map[string][]netip.Prefix
}

// Filter selects frames. It never changes, and may be used by several
// goroutines at once.
type Filter struct {
	expression string
	test       test
}

// Packet is a frame as a filter sees it.
type Packet struct {
	Data   []byte // what was captured of the frame, from the destination address on
	Length int    // bytes of the whole frame; what "len" is
	In     bool   // on the way to the machine whose card it passed: "inbound"
}

// Parse compiles an expression. An empty one selects all frames. The error is
// a *[SyntaxError].
func Parse(expression string, o Options) (*Filter, error) {
	t, err := parse(expression, o)
	if err != nil {
		return nil, err
	}
	return &Filter{expression: expression, test: t}, nil
}

// String is the expression as it was written.
func (f *Filter) String() string { return f.expression }

// Match says whether the filter selects the frame. It does not allocate. A nil
// filter selects all.
func (f *Filter) Match(p Packet) bool {
	return f == nil || f.test(p) == yes
}

// verdict is what a test says of a frame. The order of no and yes is used.
type verdict uint8

const (
	no verdict = iota
	yes
	// tooShort is the verdict on a frame that ends before a field that a test
	// looks at. It is final: as in BPF, whose programs end there, neither "not"
	// nor "or" makes it a yes.
	tooShort
)

// test is one condition. It gets its packet by value, so that none escapes to
// the heap.
type test func(p Packet) verdict

func verdictOf(ok bool) verdict {
	if ok {
		return yes
	}
	return no
}

// every holds when every test does; they are asked in order, until one says no.
func every(tests ...test) test {
	if len(tests) == 1 {
		return tests[0]
	}
	return func(p Packet) verdict {
		for _, t := range tests {
			if v := t(p); v != yes {
				return v
			}
		}
		return yes
	}
}

// either holds when one test does; they are asked in order, until one says yes.
func either(tests ...test) test {
	if len(tests) == 1 {
		return tests[0]
	}
	return func(p Packet) verdict {
		for _, t := range tests {
			if v := t(p); v != no {
				return v
			}
		}
		return no
	}
}

func not(t test) test {
	return func(p Packet) verdict {
		switch v := t(p); v {
		case no:
			return yes
		case yes:
			return no
		default:
			return v
		}
	}
}

// load reads a big-endian number of 1, 2 or 4 bytes, as BPF does.
func load(p Packet, offset uint64, size int) (n uint32, ok bool) {
	if offset+uint64(size) > uint64(len(p.Data)) {
		return 0, false
	}
	for _, b := range p.Data[offset : offset+uint64(size)] {
		n = n<<8 | uint32(b)
	}
	return n, true
}

// field is a test of the number at a fixed place.
func field(offset, size int, mask, value uint32) test {
	at := uint64(offset)
	return func(p Packet) verdict {
		n, ok := load(p, at, size)
		if !ok {
			return tooShort
		}
		return verdictOf(n&mask == value)
	}
}

const whole = 1<<32 - 1 // the mask that leaves a number as it is

// headerLength is the length in bytes of the IPv4 header at a fixed place.
func headerLength(p Packet, ip int) (n uint64, ok bool) {
	if ip >= len(p.Data) {
		return 0, false
	}
	return uint64(p.Data[ip]&15) * 4, true
}
