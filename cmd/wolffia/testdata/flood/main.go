// Command flood runs in a machine that is hostile: it sends all that [forge]
// makes, as fast as its card takes it, to the gateway and to the neighbours that
// the machine knows.
//
//	flood eth0
package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet/forge"
)

func main() {
	fmt.Fprintln(os.Stderr, "flood:", flood(os.Args[1]))
	os.Exit(1)
}

// flood ends with an error alone.
func flood(card string) error {
	i, err := net.InterfaceByName(card)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Ifindex: i.Index}); err != nil {
		return err
	}
	to, err := neighbours()
	if err != nil {
		return err
	}
	frames := forged(to, i.MTU)
	fmt.Println("floods")
	for {
		for _, f := range frames {
			// No room is no reason to stop, and what a card does not take it does not.
			if _, err := unix.Write(s, f); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
	}
}

// neighbours are those that the machine has spoken with.
func neighbours() (out []forge.Target, err error) {
	table, err := os.ReadFile("/proc/net/arp")
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line)) // address, type, flags, hardware address
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue // the heading
		}
		mac, err := net.ParseMAC(f[3])
		if err != nil {
			return nil, err
		}
		out = append(out, forge.Target{
			MAC: [6]byte(mac), Addr: addr, Addr6: netip.MustParseAddr("fd00:77:6f6c:66::2"),
			DNS:  addr.Next(), // where the gateway's is
			Open: 9, Dead: netip.MustParseAddrPort("192.0.2.99:80"),
		})
	}
	return out, nil
}

// forged are frames of all kinds for all of them, in turn. Those too long for the
// card are cut, so that what they say of their lengths is not true.
func forged(to []forge.Target, mtu int) (out [][]byte) {
	floods := forge.Floods()
	names := slices.Sorted(maps.Keys(floods))
	for _, t := range to {
		r := forge.New(t)
		for range 100 {
			for _, name := range names {
				f := floods[name](r)
				out = append(out, f[:min(len(f), 14+mtu)])
			}
		}
	}
	return out
}
