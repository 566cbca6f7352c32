package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"wolffia/internal/image/cpio"
	"wolffia/internal/tree"
)

// guestMemory is enough for the page cache to play no part.
const guestMemory = "256M"

// guestInit measures from inside a guest without wolffia's init. What it needs
// to know are kernel parameters that the kernel does not know, which it hands
// on in the environment.
const guestInit = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for m in /modules/*; do [ -e "$m" ] && insmod "$m"; done
ip link set lo up
ip addr add $ADDR/24 dev $DEV
ip link set $DEV mtu $MTU up
ip route add default via $GATEWAY
exec >/dev/ttyS0 2>/dev/console
for reverse in '' -R; do
	for i in 1 2 3 4 5; do # as in iperfScript
		iperf3 -c $GATEWAY -p $PORT -t $SECONDS_EACH -J $reverse >/report && break
		sleep 1
	done
	cat /report
done
poweroff -f
`

func (b *bench) guestEnv(port, dev string, mtu int) []string {
	return []string{
		"rdinit=/measure", "PORT=" + port, "DEV=" + dev, "MTU=" + strconv.Itoa(mtu), "ADDR=" + guestAddr,
		"GATEWAY=" + hostAtGW, "SECONDS_EACH=" + strconv.Itoa(b.seconds),
	}
}

// addMeasure appends guestInit and files to an initramfs.
func addMeasure(initramfs string, files map[string][]byte) error {
	t := tree.New()
	err := t.Put("/measure", tree.File(0o755, tree.Bytes(guestInit)))
	for name, content := range files {
		if err == nil {
			err = t.MkdirAll(filepath.Dir(name), 0o755)
		}
		if err == nil {
			err = t.Put(name, tree.File(0o755, tree.Bytes(content)))
		}
	}
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := cpio.Write(&archive, t, cpio.Options{}); err != nil {
		return err
	}
	f, err := os.OpenFile(initramfs, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(archive.Bytes())
	return err
}

// netUML compares User-Mode Linux guests: one that wolffia runs, and the same
// kernel and programs on a tap, bridged to another router's tap in a namespace.
func netUML(ctx context.Context, b *bench) (*result, error) {
	port, stop, err := b.iperfServer(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	bare, err := b.newGuest(ctx, "-p", "iperf3", "--deps", "packages", "-m", guestMemory)
	if err != nil {
		return nil, err
	}
	if err := addMeasure(bare.initramfs, nil); err != nil {
		return nil, err
	}
	r := &result{notes: []string{
		"up is from the guest to the host; the guest boots anew for each measurement",
		"the other routers' guest has a tap with segmentation offload on a bridge; wolffia's has a socket pair without",
		"0.000: nothing arrives, or the guest hangs; the kernel's tap transport loses frames of more than about 32 KiB",
	}}
	for _, mtu := range []int{smallMTU, jumboMTU, labMTU} {
		file := filepath.Join(bare.dir, fmt.Sprintf("mtu%d.yaml", mtu))
		text := fmt.Sprintf("images: {base: {packages: [iperf3], deps: packages}}\nnetworks: {lan: {mtu: %d}}\nmachines: {guest: {image: base, memory: %s, networks: [lan]}}\n", mtu, guestMemory)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return r, err
		}
		ours := func(ctx context.Context) ([]float64, error) {
			cmd := exec.CommandContext(ctx, b.wolffia, "run", "-q", "-f", file, "guest", "--", "sh", "-c", b.iperfScript(port))
			out, err := cmd.Output()
			if err != nil {
				return nil, fmt.Errorf("wolffia run: %w\n%s", err, tail(string(out), 5))
			}
			return parseRates(out, 2)
		}
		slirp := func(ctx context.Context) ([]float64, error) {
			return b.umlOnTap(ctx, bare, port, mtu, func(n *netns) (func(), error) { return n.slirp(ctx, mtu) })
		}
		passt := func(ctx context.Context) ([]float64, error) {
			return b.umlOnTap(ctx, bare, port, mtu, func(n *netns) (func(), error) { return n.pasta(ctx, mtu, false) })
		}
		x, err := b.alternate(ctx, ours, slirp, passt)
		if err != nil {
			return r, err
		}
		what := fmt.Sprintf("User-Mode Linux, MTU %d", mtu)
		r.rates(what, x[0], "slirp4netns", x[1])
		r.rates(what, x[0], "passt", x[2])
	}
	return r, nil
}

// umlOnTap boots the guest once beside a router that has tap0 in its namespace.
func (b *bench) umlOnTap(ctx context.Context, g *guest, port string, mtu int, router func(*netns) (func(), error)) ([]float64, error) {
	n, err := newNetns()
	if err != nil {
		return nil, err
	}
	defer n.close()
	stop, err := router(n)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := n.bridgeTaps(mtu); err != nil {
		return nil, err
	}
	return b.guestReport(ctx, b.onTap(g, port, mtu), nil, n.do)
}

// bridgeTaps makes tap1 and bridges it to tap0.
func (n *netns) bridgeTaps(mtu int) error {
	size := " mtu " + strconv.Itoa(mtu)
	return n.ip("link add br0 type bridge stp_state 0 forward_delay 0", "tuntap add tap1 mode tap",
		"link set tap0 master br0"+size+" up", "link set tap1 master br0"+size+" up", "link set br0"+size+" up")
}

// quietConsoles are the parameters of a guest whose console is its output, and
// whose serial line is descriptor 3.
var quietConsoles = []string{"con=null", "con0=null,fd:1", "ssl=null", "ssl0=null,fd:3"}

// onTap is a guest that measures, on tap1 of its namespace; more parameters say
// otherwise.
func (b *bench) onTap(g *guest, port string, mtu int, more ...string) command {
	return g.command(slices.Concat(b.guestEnv(port, "vec0", mtu), g.params, quietConsoles, []string{
		"vec0:transport=tap,ifname=tap1,depth=128,gro=1,mtu=" + strconv.Itoa(mtu),
	}, more)...)
}

// guestReport runs a guest that writes what it measures to descriptor 3. What one
// that hangs has not written is 0.
func (b *bench) guestReport(ctx context.Context, c command, files []*os.File, in func(func() error) error) ([]float64, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	bound, cancel := context.WithTimeout(ctx, 2*time.Duration(b.seconds)*time.Second+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(bound, c.argv[0], c.argv[1:]...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = append(os.Environ(), c.env...), c.dir, append([]*os.File{w}, files...)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	err = in(cmd.Start)
	w.Close()
	if err != nil {
		return nil, err
	}
	out, _ := io.ReadAll(r)
	err = cmd.Wait()
	rates, perr := parseRates(bytes.ReplaceAll(out, []byte{'\r'}, nil), 2)
	if perr != nil && bound.Err() != nil && ctx.Err() == nil {
		fmt.Fprintf(b.log, "the guest hung: %v\n", perr)
		return append(rates, make([]float64, 2-len(rates))...), nil
	}
	if perr != nil {
		return nil, fmt.Errorf("%w (guest: %v)\n%s", perr, err, tail(console.String(), 10))
	}
	return rates, nil
}
