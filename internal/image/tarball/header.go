package tarball

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	blockSize  = 512
	maxSpecial = 1 << 20 // bytes of one pax header or GNU long name; GNU tar and archive/tar stop there too
)

// Values of the typeflag field: POSIX pax, "ustar Interchange Format", and the
// GNU tar manual, "Basic Tar Format".
const (
	flagRegular   = '0'
	flagOldFile   = 0 // v7
	flagLink      = '1'
	flagSymlink   = '2'
	flagChar      = '3'
	flagBlock     = '4'
	flagDir       = '5'
	flagFIFO      = '6'
	flagReserved  = '7' // "contiguous": a regular file to everybody
	flagPax       = 'x'
	flagPaxGlobal = 'g'
	flagGNULong   = 'L' // the next entry's name
	flagGNULink   = 'K' // the next entry's link target
	flagGNUSparse = 'S'
	flagGNULabel  = 'V'
)

// block is one header as it lies in the archive.
//
//	offset size field              offset size field
//	     0  100 name                  257    6 magic "ustar\0", GNU: "ustar "
//	   100    8 mode                  263    2 version "00", GNU: " \0"
//	   108    8 uid                   265   32 uname
//	   116    8 gid                   297   32 gname
//	   124   12 size                  329    8 devmajor
//	   136   12 mtime                 337    8 devminor
//	   148    8 chksum                345  155 prefix (POSIX only)
//	   156    1 typeflag
//	   157  100 linkname              (GNU sparse: 386 map, 482 isextended, 483 realsize)
type block [blockSize]byte

func (b *block) name() []byte     { return b[0:100] }
func (b *block) mode() []byte     { return b[100:108] }
func (b *block) uid() []byte      { return b[108:116] }
func (b *block) gid() []byte      { return b[116:124] }
func (b *block) size() []byte     { return b[124:136] }
func (b *block) mtime() []byte    { return b[136:148] }
func (b *block) chksum() []byte   { return b[148:156] }
func (b *block) flag() byte       { return b[156] }
func (b *block) linkname() []byte { return b[157:257] }
func (b *block) devmajor() []byte { return b[329:337] }
func (b *block) devminor() []byte { return b[337:345] }
func (b *block) prefix() []byte   { return b[345:500] }

func (b *block) posix() bool { return string(b[257:265]) == "ustar\x0000" }

// sums gives the header's checksum as POSIX has it, over unsigned bytes, and as
// some old tars computed it, over signed ones. The field itself counts as blanks.
func (b *block) sums() (unsigned, signed int64) {
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return unsigned, signed
}

func (b *block) zero() bool { return *b == block{} }

// header is one entry with its extension headers applied.
type header struct {
	name, target string
	flag         byte
	mode         uint32
	uid, gid     uint32
	size         int64 // bytes of data that follow, in the archive
	mtime        time.Time
	major, minor uint32
	xattrs       map[string][]byte
	sparse       bool  // with holes
	logical      int64 // bytes of a sparse file with its holes
}

// parseHeader reads the fixed fields and then lets those of pax, which is nil
// where there is none, win.
func parseHeader(b *block, pax map[string]string) (*header, error) {
	h := &header{flag: b.flag()}
	h.name, h.target = cstring(b.name()), cstring(b.linkname())
	if b.posix() {
		if p := cstring(b.prefix()); p != "" {
			h.name = p + "/" + h.name
		}
	}
	var p numbers
	h.mode = uint32(p.parse("mode", b.mode(), math.MaxInt64) & 0o7777)
	if _, over := pax["uid"]; !over {
		h.uid = uint32(p.parse("uid", b.uid(), math.MaxUint32))
	}
	if _, over := pax["gid"]; !over {
		h.gid = uint32(p.parse("gid", b.gid(), math.MaxUint32))
	}
	if _, over := pax["size"]; !over {
		h.size = p.parse("size", b.size(), math.MaxInt64)
	}
	if _, over := pax["mtime"]; !over {
		h.mtime = time.Unix(p.signed("mtime", b.mtime()), 0).UTC()
	}
	if h.flag == flagChar || h.flag == flagBlock {
		h.major = uint32(p.parse("devmajor", b.devmajor(), math.MaxUint32))
		h.minor = uint32(p.parse("devminor", b.devminor(), math.MaxUint32))
	}
	if p.err != nil {
		return nil, p.err
	}
	if h.flag == flagGNUSparse {
		h.sparse = true
		h.logical = p.parse("realsize", b[483:495], math.MaxInt64)
	}
	if err := h.apply(pax); err != nil {
		return nil, err
	}
	return h, p.err
}

// apply lets pax records (POSIX pax, "pax Extended Header") replace fields.
func (h *header) apply(pax map[string]string) error {
	for k, v := range pax {
		var err error
		switch k {
		case "path":
			h.name = v
		case "linkpath":
			h.target = v
		case "size":
			h.size, err = paxNumber(v, math.MaxInt64)
		case "uid":
			err = setID(&h.uid, v)
		case "gid":
			err = setID(&h.gid, v)
		case "mtime":
			h.mtime, err = paxTime(v)
		case "GNU.sparse.size", "GNU.sparse.realsize":
			h.sparse = true
			h.logical, err = paxNumber(v, math.MaxInt64)
		case "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.numblocks":
			h.sparse = true
		default:
			if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
				err = h.addXattr(unescapeXattr.Replace(name), v)
			}
		}
		if err != nil {
			return fmt.Errorf("pax record %.60q: %w", k, err)
		}
	}
	if n, ok := pax["GNU.sparse.name"]; ok { // wins over path, which is then a placeholder
		h.name = n
	}
	return nil
}

// xattrPrefix begins the pax records in which star, GNU tar, bsdtar and all
// container tools keep extended attributes.
const xattrPrefix = "SCHILY.xattr."

// Linux's bounds, XATTR_NAME_MAX and XATTR_SIZE_MAX.
const (
	maxXattrName  = 255
	maxXattrValue = 65536
)

func (h *header) addXattr(name, value string) error {
	if name == "" || len(name) > maxXattrName || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("the extended attribute's name is empty, longer than %d bytes, or holds a NUL", maxXattrName)
	}
	if len(value) > maxXattrValue {
		return fmt.Errorf("%d bytes are more than an extended attribute holds (%d)", len(value), maxXattrValue)
	}
	if h.xattrs == nil {
		h.xattrs = map[string][]byte{}
	}
	h.xattrs[name] = []byte(value)
	return nil
}

func setID(dst *uint32, v string) error {
	n, err := paxNumber(v, math.MaxUint32)
	*dst = uint32(n)
	return err
}

func paxNumber(v string, most int64) (int64, error) {
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil || int64(n) > most {
		return 0, fmt.Errorf("%.40q is no number from 0 to %d", v, most)
	}
	return int64(n), nil
}

// paxTime reads seconds with an optional fraction, possibly negative.
func paxTime(v string) (time.Time, error) {
	bad := fmt.Errorf("%.40q is no time in seconds", v)
	whole, frac, _ := strings.Cut(v, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec > maxTime || sec < -maxTime {
		return time.Time{}, bad
	}
	if strings.Trim(frac, "0123456789") != "" {
		return time.Time{}, bad
	}
	nsec, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	if strings.HasPrefix(v, "-") {
		nsec = -nsec
	}
	return time.Unix(sec, nsec).UTC(), nil
}

// maxTime keeps times within what time.Time computes with, far past ext4's end
// in 2446.
const maxTime = 1 << 40

// parsePax reads "LENGTH KEY=VALUE\n" records. Later ones win; an empty value
// takes the key away.
func parsePax(data []byte, into map[string]string) error {
	for len(data) > 0 {
		sp := bytes.IndexByte(data[:min(len(data), 12)], ' ')
		if sp <= 0 {
			return errors.New("pax record without a length")
		}
		n, err := strconv.ParseUint(string(data[:sp]), 10, 31)
		if err != nil || n < uint64(sp)+3 || n > uint64(len(data)) || data[n-1] != '\n' {
			return fmt.Errorf("pax record of a wrong length (%.12q)", data[:sp])
		}
		k, v, ok := strings.Cut(string(data[sp+1:n-1]), "=")
		if !ok || k == "" {
			return fmt.Errorf("pax record without a key (%.40q)", k)
		}
		if v == "" && !strings.HasPrefix(k, xattrPrefix) {
			delete(into, k)
		} else {
			into[k] = v
		}
		data = data[n:]
	}
	return nil
}

// cstring is a field up to its first NUL.
func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// numbers parses header fields and keeps the first error.
type numbers struct{ err error }

// parse reads a number from 0 to most.
func (p *numbers) parse(field string, b []byte, most int64) int64 {
	n := p.signed(field, b)
	if p.err == nil && (n < 0 || n > most) {
		p.err = fmt.Errorf("%s %d is out of range", field, n)
	}
	if p.err != nil {
		return 0
	}
	return n
}

// signed reads octal digits padded with blanks and NULs or, where the first
// byte's top bit is set, GNU's big-endian two's complement ("base-256").
func (p *numbers) signed(field string, b []byte) int64 {
	if b[0]&0x80 != 0 {
		return p.base256(field, b)
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 8, 63)
	if err != nil {
		p.fail(fmt.Errorf("%s %q is no octal number", field, s))
		return 0
	}
	return int64(n)
}

func (p *numbers) base256(field string, b []byte) int64 {
	n := int64(int8(b[0]<<1)) >> 1 // bit 6 is the sign
	for _, c := range b[1:] {
		if n > math.MaxInt64>>8 || n < math.MinInt64>>8 {
			p.fail(fmt.Errorf("%s is out of range", field))
			return 0
		}
		n = n<<8 | int64(c)
	}
	return n
}

func (p *numbers) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}
