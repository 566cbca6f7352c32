package hostnet

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/vnet/wire"
)

// privileged says whether the process may change the network of its namespace.
// It asks the kernel, by removing an interface that can't be: capabilities
// alone don't tell, because a namespace may be another user's.
func privileged() error {
	err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: math.MaxInt32}})
	if !errors.Is(err, unix.EPERM) {
		return nil
	}
	return &host.UnsupportedError{
		Feature: "changing the host's network",
		Why:     "the process lacks CAP_NET_ADMIN in its network namespace",
		Fix: "start wolffia as root, or once: sudo setcap cap_net_admin+ep WOLFFIA; without it a network's own gateway " +
			"reaches the host and beyond, a bridge of the host is joined through qemu-bridge-helper, and a tap can be given " +
			"by the administrator: sudo ip tuntap add dev tap0 mode tap user " + userName(),
	}
}

func userName() string {
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	return fmt.Sprint(os.Getuid())
}

// openTap opens /dev/net/tun for an interface, which is made unless it is there.
func openTap(name string) (*wire.Tap, error) {
	if _, err := os.Stat("/dev/net/tun"); errors.Is(err, os.ErrNotExist) {
		return nil, &host.UnsupportedError{
			Feature: "tap", Why: "there is no /dev/net/tun",
			Fix: "sudo modprobe tun; a container needs --device /dev/net/tun",
		}
	}
	return wire.OpenTap(wire.TapOptions{Name: name, VNetHdr: true})
}

func noVLANs(err error) error {
	return &host.UnsupportedError{
		Feature: "802.1Q interfaces", Why: fmt.Sprintf("the kernel can't make any: %v", err),
		Fix: "sudo modprobe 8021q; without it, plug an untagged tap into the VLAN of the lab's network instead",
	}
}
