package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// police keeps a guest from spending more of the gateway's time than its part
// on what the gateway answers itself, or has to set up. What merely passes
// through costs nothing here. Each guest has a bucket of policeBurst, which
// fills at policeRate a second; what it can't pay is dropped.
//
// The prices are those of a machine with nothing else to do. What a guest has
// set up goes on costing long after its packet: handshakes, questions for
// hardware addresses, timers, the end of all of those together. On a machine that
// is slow or busy that adds up until nobody gets an answer. So while some guest
// asks much, the police looks how late the gateway runs, and when it can't keep
// up, those who ask most get less, down to policeLeast, until it can.
type police struct {
	watch func() bool // starts run in a goroutine; nil: nobody looks
	epoch time.Time   // what times are counted from: the host's clock may be set

	now  atomic.Int64 // nanoseconds from epoch, as of the latest frames
	busy atomic.Bool  // those are being looked at

	mu      sync.Mutex
	buckets []bucket // by guest: no more than a switch has ports
	watched bool     // run is running
	calm    int      // how many readings ago everybody got all
}

type bucket struct {
	left float64
	at   int64   // when it was filled
	slow float64 // what rate and burst are divided by, 1 or more

	// asked is the price of what the guest has asked for, whether or not it got
	// that: since somebody looks, faded by gaugeFade from reading to reading, or
	// while nobody looks since then.
	asked float64
	then  int64
}

func newPolice(watch func() bool, epoch time.Time) *police {
	return &police{watch: watch, epoch: epoch}
}

// What things cost.
const (
	costPacket = 1  // an answer of one packet
	costSYN    = 2  // a connection, or a reset
	costQuery  = 5  // a DNS query
	costDHCP   = 10 // a DHCP message
	costFlow   = 20 // sockets of the host's, for UDP or ping
)

const (
	gaugeEvery = 10 * time.Millisecond
	// gaugeLate is how late a goroutine, or a batch of frames, is in a gateway
	// that can't keep up: far more than one that is merely busy makes it.
	gaugeLate = 10 * time.Millisecond
	gaugeFade = 0.95
	gaugeCalm = 100 // readings without anything to do until nobody looks any more

	maxSlow = policeRate / policeLeast
	// askedLeast is what comes together of one that asks for policeLeast a second.
	// Everybody is left that, so there is nothing to take from those with less.
	askedLeast = policeLeast * float64(gaugeEvery) / float64(time.Second) / (1 - gaugeFade)
)

// tick says what time it is when a batch of frames has come.
func (p *police) tick(now time.Time) {
	p.now.Store(int64(now.Sub(p.epoch)))
	p.busy.Store(true)
}

// idle says that the batch has been dealt with.
func (p *police) idle() { p.busy.Store(false) }

// pays says whether the guest can pay, and takes the price.
func (p *police) pays(g guest, price float64) bool {
	now := p.now.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	for int(g) >= len(p.buckets) {
		p.buckets = append(p.buckets, bucket{left: policeBurst, at: now, slow: 1, then: now})
	}
	b := &p.buckets[g]
	p.asks(b, price, now)
	if now > b.at {
		b.left += policeRate / b.slow * time.Duration(now-b.at).Seconds()
		b.at = now
	}
	b.left = min(b.left, policeBurst/b.slow)
	if b.left < price {
		return false
	}
	b.left -= price
	return true
}

// asks notes what a guest asks for, and has somebody look if that is much.
func (p *police) asks(b *bucket, price float64, now int64) {
	if !p.watched && now-b.then > int64(time.Second) {
		b.asked, b.then = 0, now
	}
	b.asked += price
	if p.watched || b.asked <= policeLeast || p.watch == nil {
		return
	}
	p.watched, p.calm = p.watch(), 0
	for i := range p.buckets {
		p.buckets[i].asked = 0
	}
}

// run looks how late the gateway runs, until nobody asks for much.
func (p *police) run(ctx context.Context) {
	t := time.NewTimer(gaugeEvery)
	defer t.Stop()
	for {
		from := time.Now()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		late := now.Sub(from) - gaugeEvery
		if p.busy.Load() {
			late = max(late, now.Sub(p.epoch)-time.Duration(p.now.Load()))
		}
		if !p.gauge(late) {
			return
		}
		t.Reset(gaugeEvery)
	}
}

// gauge takes one reading, and says whether there are to be more. Of the guests
// that have not come down to the least yet, those that ask most get less, in
// proportion to how late the gateway is; when it is not, all get a little more
// again. Nobody gets less where no switch tells guests apart: it would be taken
// from those that are to get more.
func (p *police) gauge(late time.Duration) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := 0.0
	for i := range p.buckets {
		if b := &p.buckets[i]; b.slow < maxSlow {
			most = max(most, b.asked)
		}
	}
	p.calm++
	for i := range p.buckets {
		b := &p.buckets[i]
		if late <= gaugeLate {
			b.slow = max(b.slow*0.95, 1)
		} else if guest(i) != nobody && b.asked > askedLeast && b.asked >= most/2 {
			b.slow = min(b.slow*min(float64(late)/float64(gaugeLate), 4), maxSlow)
		}
		if b.slow > 1 {
			p.calm = 0
		}
		b.asked *= gaugeFade
	}
	p.watched = p.calm < gaugeCalm
	return p.watched
}
