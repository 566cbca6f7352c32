package main

import (
	"context"
	"fmt"

	"wolffia/internal/vnet/wire"
)

// netNative compares routers alone: a client in a network namespace, whose
// kernel costs next to nothing, behind a tap.
func netNative(ctx context.Context, b *bench) (*result, error) {
	port, stop, err := b.iperfServer(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	r := &result{notes: []string{
		"client and server are iperf3 on the host; wolffia's tap has virtio-net headers (segments cross it whole), slirp4netns' can't",
	}}
	for _, mtu := range []int{smallMTU, largeMTU} {
		ours, stopOurs, err := tapNamespace(mtu)
		if err != nil {
			return r, err
		}
		theirs, stopTheirs, err := slirpNamespace(ctx, mtu)
		if err != nil {
			stopOurs()
			return r, err
		}
		x, err := b.alternate(ctx, b.iperfIn(ours, port), b.iperfIn(theirs, port))
		stopTheirs()
		stopOurs()
		if err != nil {
			return r, err
		}
		r.rates(fmt.Sprintf("namespace, MTU %d", mtu), x[0], "slirp4netns", x[1])
	}
	return r, nil
}

// iperfIn measures both directions from a namespace.
func (b *bench) iperfIn(n *netns, port string) sampler {
	return func(ctx context.Context) (rates []float64, err error) {
		for _, down := range []bool{false, true} {
			err = n.do(func() error {
				out, _, err := command{argv: b.iperfArgs(port, down)}.output(ctx)
				if err != nil {
					return fmt.Errorf("%w\n%s", err, tail(string(out), 5))
				}
				one, err := parseRates(out, 1)
				rates = append(rates, one...)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		return rates, nil
	}
}

// tapNamespace is a namespace behind wolffia's router.
func tapNamespace(mtu int) (*netns, func(), error) {
	n, err := newNetns()
	if err != nil {
		return nil, nil, err
	}
	var tap *wire.Tap
	err = n.do(func() (err error) {
		tap, err = wire.OpenTap(wire.TapOptions{Name: "tap0", VNetHdr: true})
		return err
	})
	if err != nil {
		n.close()
		return nil, nil, err
	}
	stop, err := router(tap, mtu)
	if err == nil {
		err = n.ip(fmt.Sprintf("link set tap0 mtu %d up", mtu), "addr add "+guestAddr+"/24 dev tap0", "route add default via "+hostAtGW)
	}
	if err != nil {
		n.close()
		return nil, nil, err
	}
	return n, func() { stop(); n.close() }, nil
}

// slirpNamespace is a namespace behind slirp4netns.
func slirpNamespace(ctx context.Context, mtu int) (*netns, func(), error) {
	n, err := newNetns()
	if err != nil {
		return nil, nil, err
	}
	stop, err := n.slirp(ctx, mtu, "--configure")
	if err != nil {
		n.close()
		return nil, nil, err
	}
	return n, func() { stop(); n.close() }, nil
}
