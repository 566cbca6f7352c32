package main

import (
	"context"
	"fmt"
	"time"

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
		"client and server are iperf3 on the host; wolffia's tap has virtio-net headers (segments cross it whole), the others' can't",
	}}
	for _, mtu := range []int{smallMTU, largeMTU} {
		ours, stopOurs, err := tapNamespace(mtu)
		if err != nil {
			return r, err
		}
		slirp, stopSlirp, err := slirpNamespace(ctx, mtu)
		if err != nil {
			stopOurs()
			return r, err
		}
		passt, stopPasst, err := passtNamespace(ctx, mtu)
		if err != nil {
			stopSlirp()
			stopOurs()
			return r, err
		}
		x, err := b.alternate(ctx, b.iperfIn(ours, port), b.iperfIn(slirp, port), b.iperfIn(passt, port))
		stopPasst()
		stopSlirp()
		stopOurs()
		if err != nil {
			return r, err
		}
		what := fmt.Sprintf("namespace, MTU %d", mtu)
		r.rates(what, x[0], "slirp4netns", x[1])
		r.rates(what, x[0], "passt", x[2])
	}
	return r, nil
}

// iperfIn measures both directions from a namespace.
func (b *bench) iperfIn(n *netns, port string) sampler {
	return func(ctx context.Context) (rates []float64, err error) {
		for _, down := range []bool{false, true} {
			err = n.do(func() error {
				for range 5 { // as in iperfScript
					out, _, err := command{argv: b.iperfArgs(port, down)}.output(ctx)
					if err != nil {
						time.Sleep(time.Second)
						continue
					}
					one, err := parseRates(out, 1)
					rates = append(rates, one...)
					return err
				}
				return fmt.Errorf("iperf3 on port %s: no measurement could be made", port)
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

// passtNamespace is a namespace behind passt.
func passtNamespace(ctx context.Context, mtu int) (*netns, func(), error) {
	n, err := newNetns()
	if err != nil {
		return nil, nil, err
	}
	stop, err := n.pasta(ctx, mtu, true)
	if err != nil {
		n.close()
		return nil, nil, err
	}
	return n, func() { stop(); n.close() }, nil
}
