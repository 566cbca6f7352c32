package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// serveInit is the other end of guestInit's two transfers.
const serveInit = `#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
ip link set lo up
ip addr add $ADDR/24 dev $DEV
ip link set $DEV up
iperf3 -s -1 -p $PORT >/dev/null
iperf3 -s -1 -p $PORT >/dev/null
poweroff -f
`

// switchUML is TCP between two User-Mode Linuxes: with the same cables to both
// switches, and with that which wolffia gives its machines.
func switchUML(ctx context.Context, b *bench) (*result, error) {
	r := &result{notes: []string{
		"on taps: each guest has a tap in a namespace, bridged to one that vde_plug2tap carries to the switch and back; the kernel knows no vde_switch",
		"of a lab: as `wolffia up` wires its machines; those of vde_switch are on taps",
	}}
	bare, err := b.newGuest(ctx, "-p", "iperf3", "--deps", "packages", "-m", guestMemory)
	if err != nil {
		return r, err
	}
	if err := addMeasure(bare.initramfs, map[string][]byte{"/serve": []byte(serveInit)}); err != nil {
		return r, err
	}
	lab, err := b.newLab("pair", fmt.Sprintf(`name: pair
images: {base: {packages: [iperf3], deps: packages}}
networks: {lan: }
machines:
  anna: {networks: [lan], memory: %[1]s}
  bert: {networks: [lan], memory: %[1]s}
`, guestMemory))
	if err != nil {
		return r, err
	}
	if _, err := lab.wolffia("up", "-q").run(ctx); err != nil {
		return r, err
	}
	defer lab.down()
	if _, err := lab.wolffia("exec", "bert", "--", "iperf3", "-s", "-D").run(ctx); err != nil {
		return r, err
	}
	inLab := func(ctx context.Context) ([]float64, error) {
		script := strings.ReplaceAll(b.iperfScript(iperfPort), hostAtGW, "bert")
		out, _, err := lab.wolffia("exec", "anna", "--", "sh", "-c", script).output(ctx)
		if err != nil {
			return nil, err
		}
		return parseRates(out, 2)
	}
	x, err := b.alternate(ctx, b.umlPair(ourSwitch, bare), b.umlPair(stockSwitch, bare), b.umlPair(noSwitch, bare), inLab)
	if err == nil {
		r.switched("User-Mode Linux to User-Mode Linux, on taps", gigabits, x[:3])
		r.switched("User-Mode Linux to User-Mode Linux, of a lab", gigabits, [][][]float64{x[3], x[1]})
	}
	return r, err
}

// umlPair boots two guests on a switch, of which one measures.
func (b *bench) umlPair(program switchProgram, g *guest) sampler {
	return func(ctx context.Context) ([]float64, error) {
		path, sw, err := b.startSwitch(ctx, program)
		if err != nil {
			return nil, err
		}
		defer sw.stop()
		far, stopFar, err := plugGuest(ctx, path)
		if err != nil {
			return nil, err
		}
		defer stopFar()
		near, stopNear, err := plugGuest(ctx, path)
		if err != nil {
			return nil, err
		}
		defer stopNear()
		return b.measuredPair(ctx, b.onTap(g, iperfPort, smallMTU, serving...), far.do, b.onTap(g, iperfPort, smallMTU), near.do)
	}
}

// serving are the parameters of a guest that runs serveInit.
var serving = []string{"rdinit=/serve", "ADDR=" + hostAtGW}

// measuredPair boots a guest that serves and one that measures, each started by
// a function, as in its namespace.
func (b *bench) measuredPair(ctx context.Context, server command, far func(func() error) error, client command, near func(func() error) error) ([]float64, error) {
	bounded, cancel := context.WithTimeout(ctx, runBound)
	defer cancel()
	cmd := exec.CommandContext(bounded, server.argv[0], server.argv[1:]...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(os.Environ(), server.env...), server.dir, time.Second
	if err := far(cmd.Start); err != nil {
		return nil, err
	}
	rates, err := b.guestReport(ctx, client, nil, near)
	if err != nil {
		cancel()
	}
	_ = cmd.Wait() // it ends after two clients
	return rates, err
}

// plugGuest is a namespace with a tap on a switch, and one for a guest beside it.
func plugGuest(ctx context.Context, path string) (*netns, func(), error) {
	n, stop, err := plugNamespace(ctx, path, "")
	if err != nil {
		return nil, nil, err
	}
	if err := n.bridgeTaps(smallMTU); err != nil {
		stop()
		return nil, nil, err
	}
	return n, stop, nil
}
