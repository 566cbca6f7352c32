package ext4

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Extended attributes ("4.3.5 Extended Attributes").
const (
	xattrMagic     = 0xEA020000
	xattrEntry     = 16 // bytes of an entry without its name
	xattrHead      = 32 // of a block
	maxXattrShares = 1024
)

// xattrPrefixes are the namespaces by their numbers. Longer prefixes come
// before those that they begin with.
var xattrPrefixes = [...]struct {
	index  byte
	prefix string
}{
	{1, "user."},
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{4, "trusted."},
	{6, "security."},
	{7, "system."},
}

const (
	xattrACLAccess  = 2
	xattrACLDefault = 3
)

// xattr is an attribute as it is stored.
type xattr struct {
	index byte
	name  string // without the prefix
	value []byte
}

func (x *xattr) head() int { return (xattrEntry + len(x.name) + 3) &^ 3 }
func (x *xattr) size() int { return x.head() + (len(x.value)+3)&^3 }

// hash is that of an entry (ext4_xattr_hash_entry).
func (x *xattr) hash() uint32 {
	var h uint32
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	v := x.value
	for len(v) > 0 {
		var w [4]byte
		v = v[copy(w[:], v):]
		h = h<<16 ^ h>>16 ^ le.Uint32(w[:])
	}
	return h
}

func newXattr(name string, value []byte) (xattr, error) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if !ok {
			continue
		}
		x := xattr{p.index, rest, value}
		acl := p.index == xattrACLAccess || p.index == xattrACLDefault
		switch {
		case acl && rest == "":
			var err error
			x.value, err = encodeACL(value)
			return x, err
		case acl || rest == "" || len(rest) > 255:
			return x, fmt.Errorf("the attribute's name %.40q can't be stored", name)
		}
		return x, nil
	}
	return xattr{}, fmt.Errorf("attribute %.40q is in none of the namespaces user, trusted, security, system", name)
}

// compareXattrs is the order in which a block has them.
func compareXattrs(a, b xattr) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
}

// xattrBlock is a block of attributes, which all inodes with the same share.
type xattrBlock struct {
	data   []byte
	refs   uint32
	number uint64 // of the block
}

// planXattrs packs an inode's attributes: into the inode what fits, the rest
// into a block. Ext2 as the kernel's old driver knows it has the block alone.
func (c *collector) planXattrs(i *inode) error {
	if len(i.node.Xattrs) == 0 {
		return nil
	}
	var in, out []xattr
	room := inodeRoom - 4 - 4 // magic and end mark
	if c.o.Type == Ext2 {
		room = 0
	}
	for _, name := range slices.Sorted(maps.Keys(i.node.Xattrs)) {
		x, err := newXattr(name, i.node.Xattrs[name])
		if err != nil {
			return err
		}
		if x.size() <= room {
			room -= x.size()
			in = append(in, x)
		} else {
			out = append(out, x)
		}
	}
	if len(in) > 0 {
		slices.SortFunc(in, compareXattrs)
		b := make([]byte, inodeRoom)
		le.PutUint32(b, xattrMagic)
		packXattrs(b[4:], 0, in)
		i.xattrs = b
	}
	if len(out) == 0 {
		return nil
	}
	total := xattrHead + 4
	for _, x := range out {
		total += x.size()
	}
	if total > c.o.BlockSize {
		return fmt.Errorf("its attributes take %d bytes beyond the inode's room, and a block holds %d: use larger blocks or fewer attributes", total, c.o.BlockSize)
	}
	slices.SortFunc(out, compareXattrs)
	c.shareXattrs(i, out)
	return nil
}

// shareXattrs finds or makes the block with the attributes all.
func (c *collector) shareXattrs(i *inode, all []xattr) {
	b := make([]byte, c.o.BlockSize)
	packXattrs(b[xattrHead:], xattrHead, all)
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[8:], 1)
	var h uint32
	for _, x := range all {
		h = h<<16 ^ h>>16 ^ x.hash()
	}
	le.PutUint32(b[12:], h)
	x := c.xattrs[string(b)]
	if x == nil || x.refs == maxXattrShares {
		x = &xattrBlock{data: b}
		c.xattrs[string(b)] = x
		c.blocks = append(c.blocks, x)
	}
	x.refs++
	i.xattrBlock = x
}

// packXattrs puts entries at the start of b and their values at its end. Offsets
// of values count from base bytes before b.
func packXattrs(b []byte, base int, all []xattr) {
	at, end := 0, len(b)
	for _, x := range all {
		e := b[at:]
		end -= (len(x.value) + 3) &^ 3
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			le.PutUint16(e[2:], uint16(base+end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		le.PutUint32(e[12:], x.hash())
		copy(e[xattrEntry:], x.name)
		copy(b[end:], x.value)
		at += x.head()
	}
}

// finish sets what is known only when all is placed.
func (x *xattrBlock) finish(seed uint32, checksums bool) {
	le.PutUint32(x.data[4:], x.refs)
	if checksums {
		var n [8]byte
		le.PutUint64(n[:], x.number)
		le.PutUint32(x.data[16:], crc(crc(seed, n[:]), x.data))
	}
}

// ACLs have one form in the attributes that programs see (version 2, with an id
// in each entry) and a shorter one on disk (version 1, ids only where they mean
// something).
const (
	aclUser  = 2
	aclGroup = 8
)

var errACL = errors.New("the access control list is malformed")

func encodeACL(v []byte) ([]byte, error) {
	if len(v) < 4 || len(v)%8 != 4 || le.Uint32(v) != 2 {
		return nil, errACL
	}
	out := le.AppendUint32(nil, 1)
	for v = v[4:]; len(v) > 0; v = v[8:] {
		tag := le.Uint16(v)
		out = append(out, v[:4]...)
		if tag == aclUser || tag == aclGroup {
			out = append(out, v[4:8]...)
		}
	}
	return out, nil
}

func decodeACL(v []byte) ([]byte, error) {
	if len(v) < 4 || le.Uint32(v) != 1 {
		return nil, errACL
	}
	out := le.AppendUint32(nil, 2)
	for v = v[4:]; len(v) > 0; {
		if len(v) < 4 {
			return nil, errACL
		}
		tag := le.Uint16(v)
		out = append(out, v[:4]...)
		v = v[4:]
		if tag != aclUser && tag != aclGroup {
			out = append(out, 0xFF, 0xFF, 0xFF, 0xFF) // no id
			continue
		}
		if len(v) < 4 {
			return nil, errACL
		}
		out = append(out, v[:4]...)
		v = v[4:]
	}
	return out, nil
}

// decodeXattrs reads the entries at the start of b. Values lie at their offsets
// from base bytes before b.
func decodeXattrs(b []byte, base int, put func(name string, value []byte) error) error {
	for at := 0; ; {
		if at+4 > len(b) || bytes.Equal(b[at:at+4], []byte{0, 0, 0, 0}) {
			return nil
		}
		if at+xattrEntry > len(b) {
			return errors.New("an attribute's entry is cut off")
		}
		e := b[at:]
		x := xattr{index: e[1]}
		length, size, off := int(e[0]), int64(le.Uint32(e[8:])), int64(le.Uint16(e[2:]))-int64(base)
		switch {
		case xattrEntry+length > len(e):
			return errors.New("an attribute's name is cut off")
		case le.Uint32(e[4:]) != 0:
			return errors.New("an attribute's value is in an inode of its own (ea_inode), which is not supported")
		case size > 0 && (off < 0 || off+size > int64(len(b))):
			return errors.New("an attribute's value lies outside")
		}
		x.name = string(e[xattrEntry:][:length])
		if size > 0 {
			x.value = bytes.Clone(b[off:][:size])
		}
		name, err := x.fullName()
		if err != nil {
			return err
		}
		if err := put(name, x.value); err != nil {
			return err
		}
		at += x.head()
	}
}

// fullName gives the name as programs know it, and turns the value of an ACL.
func (x *xattr) fullName() (string, error) {
	if strings.IndexByte(x.name, 0) >= 0 {
		return "", fmt.Errorf("the attribute's name %q holds a NUL", x.name)
	}
	for _, p := range xattrPrefixes {
		if p.index != x.index {
			continue
		}
		if p.index != xattrACLAccess && p.index != xattrACLDefault {
			return p.prefix + x.name, nil
		}
		if x.name != "" {
			return "", errACL
		}
		var err error
		x.value, err = decodeACL(x.value)
		return p.prefix, err
	}
	return "", fmt.Errorf("the attribute %q is in the unknown namespace %d", x.name, x.index)
}
