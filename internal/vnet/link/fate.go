package link

import "time"

// fate is all that chance decides about a frame.
type fate struct {
	lost       bool
	duplicated bool
	corrupted  bool
	reordered  bool
	bit        uint64        // which one is flipped, modulo the frame's length
	jitter     time.Duration // between -Jitter and Jitter
	copyJitter time.Duration // that of the second copy
}

// decision names a stream of random numbers. Each is of its own, so that no
// probability has an influence on what another one chooses. The numbers are part of
// what a seed means: none may change.
type decision uint64

const (
	decideLoss decision = iota
	decideDuplicate
	decideCorrupt
	decideBit
	decideReorder
	decideJitter
	decideCopyJitter
	decisions
)

// dice are the streams of one direction.
type dice [decisions]uint64

// golden is 2^64 divided by the golden ratio: SplitMix64's step.
const golden = 0x9e3779b97f4a7c15

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood: Fast Splittable
// Pseudorandom Number Generators, OOPSLA 2014, figure 17): every bit of z has
// an influence on every bit of the result.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func newDice(seed uint64, d Direction) *dice {
	var all dice
	base := mix(seed + golden)
	for i := range all {
		all[i] = mix(base + (uint64(d)*uint64(decisions)+uint64(i)+1)*golden)
	}
	return &all
}

// bits gives the n-th number of a stream.
func (d *dice) bits(of decision, n uint64) uint64 { return mix(d[of] + n*golden) }

// unit gives the same as a number from 0 to below 1.
func (d *dice) unit(of decision, n uint64) float64 { return float64(d.bits(of, n)>>11) / (1 << 53) }

func (d *dice) happens(of decision, n uint64, p Probability) bool {
	return p > 0 && d.unit(of, n) < float64(p)
}

func (d *dice) spread(of decision, n uint64, by time.Duration) time.Duration {
	if by == 0 {
		return 0
	}
	return time.Duration((2*d.unit(of, n) - 1) * float64(by))
}

// fate decides about the n-th frame.
func (i *Impairment) fate(d *dice, n uint64) fate {
	return fate{
		lost:       d.happens(decideLoss, n, i.Loss),
		duplicated: d.happens(decideDuplicate, n, i.Duplicate),
		corrupted:  d.happens(decideCorrupt, n, i.Corrupt),
		reordered:  d.happens(decideReorder, n, i.Reorder),
		bit:        d.bits(decideBit, n),
		jitter:     d.spread(decideJitter, n, i.Jitter),
		copyJitter: d.spread(decideCopyJitter, n, i.Jitter),
	}
}
