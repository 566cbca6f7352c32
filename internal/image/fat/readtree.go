package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf16"

	"wolffia/internal/tree"
)

// TreeOptions says how a file system is read. The zero value is right for any
// ordinary one.
type TreeOptions struct {
	// Limits bound the entries and their metadata.
	Limits tree.Limits
}

// Tree reads the names and metadata of all files. Their contents, each a
// [tree.Sparse] for the sake of its OpenAt, stay where they are.
//
// Errors name the file.
func (f *FS) Tree(o TreeOptions) (*tree.Tree, error) {
	t := &treeReader{f: f, claims: newClaims(f), unpacker: tree.NewUnpacker(o.Limits)}
	if err := t.dir("/", f.root, f.root == 0); err != nil {
		return nil, fmt.Errorf("read FAT file system: %w", err)
	}
	return t.unpacker.Tree(), nil
}

type treeReader struct {
	f        *FS
	claims   *claims
	unpacker *tree.Unpacker
}

// dir reads a directory and all below it.
func (t *treeReader) dir(name string, first uint32, fixed bool) error {
	d, err := t.f.openDir(first, fixed, t.claims)
	if err != nil {
		return fmt.Errorf("%.400q: %w", name, err)
	}
	type sub struct {
		name  string
		first uint32
	}
	var subs []sub
	for {
		child, e, err := d.named()
		if err == io.EOF {
			break
		}
		if err == errName {
			err = fmt.Errorf("an entry's name, %.300q, is impossible", child)
		}
		if err != nil {
			return fmt.Errorf("%.400q: %w", name, err)
		}
		p := path.Join(name, child)
		if err := t.put(p, e); err != nil {
			return fmt.Errorf("%.400q: %w", p, err)
		}
		if e.Attributes&attrDirectory != 0 {
			subs = append(subs, sub{p, e.first()})
		}
	}
	for _, s := range subs {
		if err := t.dir(s.name, s.first, false); err != nil {
			return err
		}
	}
	return nil
}

// put places one entry in the tree.
func (t *treeReader) put(name string, e dirent) error {
	if t.unpacker.Tree().Get(name) != nil {
		return errors.New("the name is there twice")
	}
	n := tree.Dir(0o755)
	if e.Attributes&attrDirectory == 0 {
		perm := uint32(0o644)
		if e.Attributes&attrReadOnly != 0 {
			perm = 0o444
		}
		c, err := t.content(e)
		if err != nil {
			return err
		}
		n = tree.File(perm, c)
	}
	n.ModTime = unstamp(e.WriteDate, e.WriteTime)
	return t.unpacker.Put(name, n)
}

func (t *treeReader) content(e dirent) (tree.Content, error) {
	if e.Size == 0 {
		return nil, nil
	}
	want := ceil(int64(e.Size), t.f.cluster)
	runs, err := t.claims.follow(e.first(), want, int64(t.f.clusters))
	if err != nil {
		return nil, err
	}
	if err := t.unpacker.Charge(int64(len(runs)) * 8); err != nil {
		return nil, err
	}
	return newContent(t.f, int64(e.Size), runs), nil
}

func (e *dirent) first() uint32 { return uint32(e.FirstHi)<<16 | uint32(e.FirstLo) }

// dirReader reads a directory's entries.
type dirReader struct {
	r   io.Reader
	f   *FS
	ext bool // FirstHi counts

	long     []uint16 // the long name that was read so far
	expected int      // the part that comes next; 0: none
	checksum byte
}

// openDir opens the directory that begins at a cluster, or the fixed root
// directory.
func (f *FS) openDir(first uint32, fixed bool, c *claims) (*dirReader, error) {
	d := &dirReader{f: f, ext: f.info.Type == FAT32}
	if fixed {
		if f.info.Type == FAT32 {
			return nil, errors.New("the root directory has no cluster")
		}
		d.r = io.NewSectionReader(f.r, f.rootAt, f.rootSize)
		return d, nil
	}
	runs, err := c.follow(first, 1, ceil(maxDirectory, f.cluster))
	if err != nil {
		return nil, err
	}
	var size int64
	for _, r := range runs {
		size += int64(r.count) * f.cluster
	}
	src, err := newContent(f, size, runs).Open()
	if err != nil {
		return nil, err
	}
	d.r = src
	return d, nil
}

// next gives the next entry that is not deleted, of any kind, or io.EOF.
func (d *dirReader) next() (dirent, error) {
	var b [direntSize]byte
	var e dirent
	for {
		if _, err := io.ReadFull(d.r, b[:]); err != nil {
			return e, err
		}
		switch b[0] {
		case 0:
			return e, io.EOF
		case 0xE5:
			d.expected = 0
			continue
		}
		if _, err := binary.Decode(b[:], le, &e); err != nil || e.Attributes&attrLongMask == attrLong {
			return e, err
		}
		if e.Name[0] == 0x05 { // stands for a letter that would mean: deleted
			e.Name[0] = 0xE5
		}
		if !d.ext {
			e.FirstHi = 0
		}
		return e, nil
	}
}

// errName says that a name is impossible.
var errName = errors.New("impossible name")

// named gives the next file or directory and its name, or io.EOF, or errName for
// one whose name can't be.
func (d *dirReader) named() (string, dirent, error) {
	for {
		e, err := d.next()
		if err != nil {
			return "", e, err
		}
		switch {
		case e.Attributes&attrLongMask == attrLong:
			d.part(e)
			continue
		case e.Attributes&attrVolume != 0:
			d.expected = 0
			continue
		}
		name := d.name(e)
		if strings.TrimRight(string(e.Name[:]), " ") == "." || strings.TrimRight(string(e.Name[:]), " ") == ".." {
			continue
		}
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return name, e, errName
		}
		return name, e, nil
	}
}

// part adds a part of a long name. One that is not in order is dropped, as every
// system does: then the short name counts.
func (d *dirReader) part(e dirent) {
	var raw [direntSize]byte
	var l longDirent
	_, err := binary.Encode(raw[:], le, e)
	if err == nil {
		_, err = binary.Decode(raw[:], le, &l)
	}
	order := int(l.Order &^ lastLong)
	switch {
	case err != nil:
		d.expected = 0
		return
	case l.Order&lastLong != 0 && order >= 1 && order <= (maxName+longUnits-1)/longUnits:
		d.long, d.checksum = make([]uint16, order*longUnits), l.Checksum
	case d.expected <= 1 || order != d.expected-1 || l.Checksum != d.checksum:
		d.expected = 0
		return
	}
	d.expected = order
	units := d.long[(order-1)*longUnits:]
	copy(units, l.Name1[:])
	copy(units[5:], l.Name2[:])
	copy(units[11:], l.Name3[:])
}

// name is an entry's long name, where it has one.
func (d *dirReader) name(e dirent) string {
	whole := d.expected == 1 && d.checksum == e.Name.checksum()
	d.expected = 0
	if whole {
		long := d.long
		if end := slices.Index(long, 0); end >= 0 {
			long = long[:end]
		}
		return string(utf16.Decode(long))
	}
	base, ext := e.Name[:8], e.Name[8:]
	lower := func(b []byte, bit byte) string {
		s := strings.TrimRight(decodeOEM(b), " ")
		if e.Case&bit != 0 {
			s = strings.ToLower(s)
		}
		return s
	}
	name := lower(base, lowerBase)
	if x := lower(ext, lowerExt); x != "" {
		name += "." + x
	}
	return name
}

// codePage437 has the characters from 0x80 on.
const codePage437 = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0"

func decodeOEM(b []byte) string {
	high := []rune(codePage437)
	out := make([]rune, len(b))
	for i, c := range b {
		out[i] = rune(c)
		if c >= 0x80 {
			out[i] = high[c-0x80]
		}
	}
	return string(out)
}
