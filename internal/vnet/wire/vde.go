package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// The first message on a VDE switch's ctl socket, in the host's byte order and
// without padding:
//
//	0    u32  magic
//	4    u32  version
//	8    u32  low byte: a port, or one with the rights of management; the rest: its number, 0 for any
//	12   sockaddr_un of the client's data socket: u16 family, 108 bytes path
//	122  what the client says of itself, up to 128 bytes, not terminated
//
// User-Mode Linux's daemon transport sends the first 122 bytes as a structure
// that its compiler padded to 124. The switch answers with the sockaddr_un of
// its own data socket, and nothing else.
const (
	vdeMagic       = 0xfeedface
	vdeVersion     = 3
	vdeNewPort     = 0
	vdeManagement  = 1 // asks for port 0, which other switches give rights
	vdeAddrAt      = 12
	vdeRequestLen  = vdeAddrAt + sockaddrLen
	vdePaddedLen   = 124
	vdeDescription = 128
	vdeRequestMax  = vdeRequestLen + vdeDescription
)

// maxVDEPort is the highest number of a port that a client may ask for.
const maxVDEPort = 4095

// Sizes of struct sockaddr_un.
const (
	sockaddrLen = 2 + sunPathLen
	sunPathLen  = 108
	maxSunPath  = sunPathLen - 1 // of a path, with the NUL that ends it
	familyUnix  = 1
)

// sockaddr is a struct sockaddr_un as it goes over the wire. All its bytes
// count: an abstract name, which begins with a NUL, has no other end.
type sockaddr [sockaddrLen]byte

// pathAddr is the address of a path of at most maxSunPath bytes.
func pathAddr(path string) (a sockaddr) {
	binary.NativeEndian.PutUint16(a[:], familyUnix)
	copy(a[2:], path)
	return a
}

func (a *sockaddr) abstract() bool { return a[2] == 0 }

// path is the address's path, if it is not abstract.
func (a *sockaddr) path() string {
	path, _, _ := bytes.Cut(a[2:], []byte{0})
	return string(path)
}

// check says whether the address can be another process's: a relative path
// would be looked up from where this one happens to be.
func (a *sockaddr) check() error {
	switch family := binary.NativeEndian.Uint16(a[:]); {
	case family != familyUnix:
		return fmt.Errorf("address family %d is not that of unix sockets", family)
	case a.abstract():
		return nil
	case a[2] != '/':
		return fmt.Errorf("path %q of the data socket is not absolute", a.path())
	case len(a.path()) > maxSunPath:
		return errors.New("path of the data socket has no end")
	}
	return nil
}

// vdeRequest is a client that wants to be plugged in.
type vdeRequest struct {
	port        int  // the number that it asks for; 0 for any
	management  bool // it asks for port 0
	addr        sockaddr
	description string // printable
}

// errShort is a request of which more has to come.
var errShort = errors.New("request is too short")

func parseVDERequest(b []byte) (*vdeRequest, error) {
	if len(b) >= 4 && binary.NativeEndian.Uint32(b) != vdeMagic {
		return nil, fmt.Errorf("read request: magic number is %#x, not %#x", binary.NativeEndian.Uint32(b), uint32(vdeMagic))
	}
	if len(b) < vdeRequestLen {
		return nil, fmt.Errorf("read request: %w: %d bytes of %d", errShort, len(b), vdeRequestLen)
	}
	if v := binary.NativeEndian.Uint32(b[4:]); v != vdeVersion {
		return nil, fmt.Errorf("read request: version %d of the protocol is not known, only %d", v, vdeVersion)
	}
	kind := binary.NativeEndian.Uint32(b[8:])
	r := &vdeRequest{port: int(kind >> 8), addr: sockaddr(b[vdeAddrAt:])}
	switch kind & 0xff {
	case vdeNewPort:
	case vdeManagement:
		r.port, r.management = 0, true
	default:
		return nil, fmt.Errorf("read request: type %d is not known", kind&0xff)
	}
	if r.port > maxVDEPort {
		return nil, fmt.Errorf("read request: port %d is above %d", r.port, maxVDEPort)
	}
	if err := r.addr.check(); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	text := b[vdeRequestLen:min(len(b), vdeRequestMax)]
	if len(b) == vdePaddedLen && r.addr.abstract() {
		text = nil // two bytes of padding, whatever they are
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	r.description = printable(string(text))
	return r, nil
}

// marshal gives the message of a request whose description fits.
func (r *vdeRequest) marshal() []byte {
	b := make([]byte, vdeRequestLen, vdeRequestMax)
	binary.NativeEndian.PutUint32(b, vdeMagic)
	binary.NativeEndian.PutUint32(b[4:], vdeVersion)
	kind := uint32(r.port)<<8 | vdeNewPort
	if r.management {
		kind = vdeManagement
	}
	binary.NativeEndian.PutUint32(b[8:], kind)
	copy(b[vdeAddrAt:], r.addr[:])
	return append(b, r.description...)
}

// printable makes what a stranger wrote fit for a terminal.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s))
}
