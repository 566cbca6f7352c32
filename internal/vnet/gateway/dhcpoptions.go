package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// DHCP says how a network's addresses are given out, and what guests are told
// with them. The zero value gives out every address from [Config.FirstLease]
// on, and tells what the network needs.
type DHCP struct {
	// First and Last are the range of the leases of guests without a
	// reservation, both included; the zero values mean the first lease and the
	// subnet's last host. Reservations may lie outside.
	First, Last netip.Addr
	// NextServer is where guests that boot from the network get their file; the
	// zero value is the gateway, if there is a BootFile or a TFTP folder.
	NextServer netip.Addr
	// BootFile is that file's name there, at most 127 bytes.
	BootFile string
	// TFTP is a folder of the host that is served, read-only, at port 69 of the
	// gateway's addresses; empty serves none.
	TFTP string
	// Options are further options (RFC 2132) by their codes, as on the wire; see
	// [ParseOption]. They replace the gateway's own, and one without bytes
	// leaves that one out. All together take at most 512 bytes.
	Options map[uint8][]byte
}

const (
	maxBootFile     = 127 // the header's field, with a zero byte
	maxOptionsBytes = 512 // so that an answer fits one packet of any network here
)

// optionKind is how an option's value is written.
type optionKind int

const (
	kindText optionKind = iota
	kindAddr            // one or more IPv4 addresses
	kindByte
	kindShort
	kindLong
	kindFlag
	kindNames // domain names, as on the wire (RFC 3397)
)

// optionTypes are the options that have a name and a type here (RFC 2132, unless
// said otherwise). Others are text.
var optionTypes = []struct {
	code uint8
	name string
	kind optionKind
}{
	{2, "time-offset", kindLong},
	{3, "routers", kindAddr},
	{4, "time-servers", kindAddr},
	{6, "dns-servers", kindAddr},
	{7, "log-servers", kindAddr},
	{9, "lpr-servers", kindAddr},
	{13, "boot-size", kindShort},
	{15, "domain-name", kindText},
	{16, "swap-server", kindAddr},
	{17, "root-path", kindText},
	{19, "ip-forwarding", kindFlag},
	{23, "default-ttl", kindByte},
	{26, "interface-mtu", kindShort},
	{28, "broadcast-address", kindAddr},
	{33, "static-routes", kindAddr},
	{40, "nis-domain", kindText},
	{41, "nis-servers", kindAddr},
	{42, "ntp-servers", kindAddr},
	{43, "vendor-options", kindText},
	{44, "netbios-name-servers", kindAddr},
	{46, "netbios-node-type", kindByte},
	{66, "tftp-server-name", kindText},
	{67, "boot-file", kindText},
	{69, "smtp-servers", kindAddr},
	{72, "www-servers", kindAddr},
	{100, "posix-timezone", kindText}, // RFC 4833
	{101, "tzdb-timezone", kindText},
	{114, "captive-portal", kindText}, // RFC 8910
	{119, "domain-search", kindNames},
	{150, "tftp-servers", kindAddr}, // RFC 5859
	{209, "pxelinux-config", kindText},
	{210, "pxelinux-prefix", kindText}, // RFC 5071
	{211, "pxelinux-reboot-time", kindLong},
	{252, "wpad", kindText},
}

// OptionCode gives the code of a DHCP option by its name, such as
// "domain-search".
func OptionCode(name string) (uint8, bool) {
	for _, o := range optionTypes {
		if o.name == name {
			return o.code, true
		}
	}
	return 0, false
}

// ParseOption gives the bytes of a DHCP option as a person writes it: addresses
// or domain names with blanks or commas between, a number, or text, by the type
// of the option; or for any option bytes in hexadecimal after 0x. Nothing gives
// nothing, which leaves the option out.
func ParseOption(code uint8, value string) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("DHCP option %d: %w", code, err) }
	if code == 0 || code == 255 || serverOption(code) {
		return fail(errors.New("it is the server's own business"))
	}
	if value == "" {
		return nil, nil
	}
	var b []byte
	var err error
	if digits, ok := strings.CutPrefix(value, "0x"); ok {
		b, err = hex.DecodeString(digits)
	} else {
		b, err = encodeOption(kindOf(code), value)
	}
	if err == nil && len(b) > 255 {
		err = fmt.Errorf("%d bytes are more than the 255 that fit", len(b))
	}
	if err != nil {
		return fail(err)
	}
	return b, nil
}

func kindOf(code uint8) optionKind {
	for _, o := range optionTypes {
		if o.code == code {
			return o.kind
		}
	}
	return kindText
}

func encodeOption(kind optionKind, value string) (b []byte, err error) {
	words := strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
	switch kind {
	case kindAddr:
		for _, w := range words {
			a, err := netip.ParseAddr(w)
			if err != nil || !a.Is4() {
				return nil, fmt.Errorf("%q is no IPv4 address", w)
			}
			b = append(b, a.AsSlice()...)
		}
	case kindNames:
		for _, w := range words {
			for label := range strings.SplitSeq(w, ".") {
				if !validLabel(strings.ToLower(label)) {
					return nil, fmt.Errorf("%q is no domain name", w)
				}
			}
			b = append(b, dnsLabels(w)...)
		}
	case kindFlag:
		on, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", value)
		}
		if on {
			return []byte{1}, nil
		}
		return []byte{0}, nil
	case kindByte, kindShort, kindLong:
		size := map[optionKind]int{kindByte: 1, kindShort: 2, kindLong: 4}[kind]
		n, err := strconv.ParseInt(value, 0, 64)
		if err != nil || n < -1<<31 || n>>(8*size) > 0 {
			return nil, fmt.Errorf("%q is no number of %d bytes", value, size)
		}
		return binary.BigEndian.AppendUint64(nil, uint64(n))[8-size:], nil
	default:
		return []byte(value), nil
	}
	return b, nil
}

// serverOption says that an option belongs to the protocol itself, so that
// nobody may set it.
func serverOption(code uint8) bool {
	switch code {
	case 50, 51, 52, 53, 54, 55, 57, 61, 82:
		return true
	}
	return false
}

// bounds are the first and the last address of the leases.
func (d *DHCP) bounds(subnet netip.Prefix) (first, last netip.Addr) {
	if first = d.First; !first.IsValid() {
		first = Config{Subnet: subnet}.FirstLease()
	}
	if last = d.Last; !last.IsValid() {
		last = lastAddr(subnet).Prev()
	}
	return first, last
}

// contains says whether an address lies between First and Last.
func (d *DHCP) contains(a netip.Addr) bool { return a.Is4() && !a.Less(d.First) && !d.Last.Less(a) }

// check reports what can't be given out in a subnet.
func (d *DHCP) check(c *Config) error {
	for _, a := range []netip.Addr{d.First, d.Last} {
		if a.IsValid() && !c.hostAddr(a) {
			return fmt.Errorf("DHCP range: %v is no host address of %v", a, c.Subnet)
		}
	}
	if first, last := d.bounds(c.Subnet); last.Less(first) {
		return fmt.Errorf("DHCP range: the last address, %v, comes before the first, %v", last, first)
	}
	if d.NextServer.IsValid() && !d.NextServer.Is4() {
		return fmt.Errorf("DHCP next server %v: an IPv4 address is needed", d.NextServer)
	}
	if len(d.BootFile) > maxBootFile {
		return fmt.Errorf("DHCP boot file: %d bytes are more than the %d that fit", len(d.BootFile), maxBootFile)
	}
	sum := 0
	for code, value := range d.Options {
		if code == 0 || code == 255 || serverOption(code) {
			return fmt.Errorf("DHCP option %d: it is the server's own business", code)
		}
		if sum += 2 + len(value); len(value) > 255 || sum > maxOptionsBytes {
			return fmt.Errorf("DHCP option %d: %d bytes are too many: 255 fit one option, %d all together", code, len(value), maxOptionsBytes)
		}
	}
	return nil
}
