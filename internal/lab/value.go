package lab

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/rootfs"
	"wolffia/internal/spell"
)

// Size is a number of bytes.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// ParseSize reads "64M", "1.5GiB" or a plain number of bytes. K, M, G and T
// are binary; a B or iB may follow.
func ParseSize(s string) (Size, error) {
	number := strings.TrimRight(s, "KMGTBikmgtb")
	unit := strings.ToUpper(s[len(number):])
	factor := map[string]Size{
		"": 1, "B": 1, "K": KiB, "KB": KiB, "KIB": KiB, "M": MiB, "MB": MiB, "MIB": MiB,
		"G": GiB, "GB": GiB, "GIB": GiB, "T": TiB, "TB": TiB, "TIB": TiB,
	}[unit]
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || factor == 0 || value < 0 || math.IsInf(value, 0) || math.IsNaN(value) || strings.ContainsAny(number, "xXpP_") {
		return 0, fmt.Errorf("%q is no size; write one such as 64M or 2G", s)
	}
	bytes := value * float64(factor)
	if bytes > float64(math.MaxInt64/2) {
		return 0, fmt.Errorf("size %q is beyond all machines", s)
	}
	return Size(bytes), nil
}

// String writes the size with the largest unit that gives a whole number.
func (n Size) String() string {
	for _, u := range []struct {
		size Size
		name string
	}{{TiB, "T"}, {GiB, "G"}, {MiB, "M"}, {KiB, "K"}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatInt(int64(n/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(n), 10)
}

// ParseMemory reads a machine's memory, within what can be meant. A number by
// itself is MiB, as it is for QEMU.
func ParseMemory(s string) (Size, error) {
	if s != "" && strings.Trim(s, "0123456789") == "" {
		s += "M"
	}
	n, err := ParseSize(s)
	switch {
	case err != nil:
		return 0, err
	case n < MinMemory:
		return 0, fmt.Errorf("memory %s is too small for any Linux; give at least %s", s, MinMemory)
	case n > MaxMemory:
		return 0, fmt.Errorf("memory %s is impossible; give at most %s", s, MaxMemory)
	}
	return n, nil
}

// Limits of a disk's or a file system's size.
const (
	MinDisk = 1 * MiB
	MaxDisk = 16 * TiB
)

// ParseDiskSize reads the size of a disk or a file system, which is of whole
// blocks of 4 KiB.
func ParseDiskSize(s string) (Size, error) {
	n, err := ParseSize(s)
	switch {
	case err != nil:
		return 0, err
	case n < MinDisk || n > MaxDisk:
		return 0, fmt.Errorf("size %s is not within %s and %s", s, MinDisk, MaxDisk)
	case n%(4*KiB) != 0:
		return 0, fmt.Errorf("size %s is not of whole blocks of 4K; write one such as 64M", s)
	}
	return n, nil
}

// Forward lets the host, or whoever reaches its address, into a machine.
type Forward struct {
	Network string         // "tcp" or "udp"
	Host    netip.AddrPort // where the host listens; port 0 takes a free one
	Port    uint16         // in the machine
}

// ParseForward reads "[ADDRESS:]HOSTPORT:PORT[/udp]", as in
// "127.0.0.1:5522:22", "8080:80" or "[::1]:53:53/udp". Without an address the
// host listens on 127.0.0.1.
func ParseForward(s string) (Forward, error) {
	bad := func(why string) (Forward, error) {
		return Forward{}, fmt.Errorf("forward %q: %s; write it as 127.0.0.1:5522:22 or 8080:80 or 5353:53/udp", s, why)
	}
	rest, proto, ok := strings.Cut(s, "/")
	if !ok {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" {
		return bad(fmt.Sprintf("protocol %q is neither tcp nor udp", proto))
	}
	cut := strings.LastIndexByte(rest, ':')
	if cut < 0 {
		return bad("the machine's port is missing")
	}
	port, err := parsePort(rest[cut+1:])
	if err != nil || port == 0 {
		return bad(fmt.Sprintf("%q is no port", rest[cut+1:]))
	}
	host := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	listen := rest[:cut]
	if at := strings.LastIndexByte(listen, ':'); at >= 0 {
		name := strings.TrimSuffix(strings.TrimPrefix(listen[:at], "["), "]")
		if host, err = netip.ParseAddr(name); err != nil {
			return bad(fmt.Sprintf("%q is no address", name))
		}
		listen = listen[at+1:]
	}
	hostPort, err := parsePort(listen)
	if err != nil {
		return bad(fmt.Sprintf("%q is no port", listen))
	}
	return Forward{Network: proto, Host: netip.AddrPortFrom(host, hostPort), Port: port}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// String writes the forward as ParseForward reads it.
func (f Forward) String() string {
	s := fmt.Sprintf("%s:%d", f.Host, f.Port)
	if f.Network == "udp" {
		s += "/udp"
	}
	return s
}

// ParseSubnet reads an IPv4 network that has room for a router, a name server
// and a machine, such as 10.0.2.0/24.
func ParseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return netip.Prefix{}, fmt.Errorf("%q is no IPv4 network; write one such as 10.0.2.0/24", s)
	case p.Bits() < 8 || p.Bits() > 27:
		return netip.Prefix{}, fmt.Errorf("network %s: the prefix must be /8 to /27: gateway .2, name server .3, leases from .15", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("network %s has host bits set; did you mean %s?", s, p.Masked())
	case p.Addr().IsLoopback(), p.Addr().IsMulticast(), p.Addr().IsUnspecified():
		return netip.Prefix{}, fmt.Errorf("network %s can't hold machines", s)
	}
	return p, nil
}

// ParseSubnet6 reads an IPv6 network of 64 bits, such as fd00:1::/64.
func ParseSubnet6(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is6() || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is no IPv6 network; write one such as fd00:1::/64", s)
	case p.Bits() != 64:
		return netip.Prefix{}, fmt.Errorf("network %s: the prefix must be /64, which addresses are made in", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("network %s has host bits set; did you mean %s?", s, p.Masked())
	case p.Addr().IsLoopback(), p.Addr().IsMulticast(), p.Addr().IsLinkLocalUnicast(), p.Addr().IsUnspecified():
		return netip.Prefix{}, fmt.Errorf("network %s can't hold machines", s)
	}
	return p, nil
}

// Arches are the architectures an image may have, by Debian's names.
func Arches() []string { return []string{"amd64", "arm64", "armhf", "i386", "riscv64"} }

// Backends are the words a machine's backend may be.
func Backends() []string {
	return []string{string(BackendAuto), string(BackendUML), string(BackendQEMU), string(BackendView)}
}

// InitWords are the words an image's init may be.
func InitWords() []string { return []string{string(rootfs.InitBusybox), string(rootfs.InitScript)} }

// DepsWords are the words an image's deps may be.
func DepsWords() []string { return []string{string(rootfs.DepsPackages), string(rootfs.DepsELF)} }

// UnknownError is a word that is none of the valid ones.
type UnknownError struct {
	What  string // "machine", "network"
	Word  string
	Valid []string
}

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("unknown %s %q", e.What, e.Word)
	if near := spell.Nearest(e.Word, e.Valid); near != "" {
		return fmt.Sprintf("%s; did you mean %q?", s, near)
	}
	if len(e.Valid) == 0 {
		return s + "; there is none"
	}
	return s + "; it is one of " + strings.Join(e.Valid, ", ")
}

// OneOf checks a word against the valid ones and names the nearest. The error is
// an [*UnknownError].
func OneOf(what, word string, valid []string) error {
	if slices.Contains(valid, word) {
		return nil
	}
	return &UnknownError{what, word, valid}
}

// checkName holds a name to what can be a DNS label and a file's name.
func checkName(what, name string) error {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-'
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("%s %q: a name is 1 to 63 lower-case letters, digits and dashes, and neither starts nor ends with a dash", what, name)
	}
	return nil
}

// mac hashes words into a unicast, locally administered address.
func mac(words ...string) net.HardwareAddr {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	a := h.Sum(nil)[:6]
	a[0] = a[0]&^0x01 | 0x02
	return a
}

// ControlMAC is the address of the card on a machine's own link to wolffia,
// which is not part of any network.
func ControlMAC(lab, machine string) net.HardwareAddr { return mac("control", lab, machine) }

// Roots are the places where a machine's root can live.
func Roots() []string { return []string{string(RootInitramfs), string(RootDisk)} }

// Consoles are what a machine can have on its console.
func Consoles() []string { return []string{string(ConsoleShell), string(ConsoleLogin)} }

// Types are the kinds of PC that QEMU makes.
func Types() []string { return []string{string(TypeQ35), string(TypeMicroVM)} }

// Boots are the ways in which a machine can find its kernel.
func Boots() []string { return []string{string(BootKernel), string(BootBIOS), string(BootUEFI)} }
