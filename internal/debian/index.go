package debian

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"sort"

	"wolffia/internal/debian/control"
)

// An index is a Packages file in a form in which single packages are found
// without reading the rest: 50 MB of text take 0.3 s to parse, while resolving
// looks at some hundred packages.
//
// The file has records, then a table, then a footer. Numbers are unsigned
// varints unless said otherwise, strings are preceded by their length.
//
//	record  length, package, CRC-32C of package (4 bytes, little endian)
//	table   for each name, in bytewise order: name, count and offsets of the
//	        records of that name, count and offsets of those that provide it;
//	        then for each name its offset in the table (4 bytes, little endian)
//	footer  offset and length of the table (8 bytes each, little endian), number
//	        of names (4 bytes), CRC-32C of the table (4 bytes), indexMagic
//
// The empty name has, as records, the essential and the required packages.
const (
	indexMagic   = "wolffia index 1\n"
	indexFooter  = 8 + 8 + 4 + 4 + len(indexMagic)
	maxIndexFile = 1 << 30
	maxRecord    = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// indexName is what the table says about one name.
type indexName struct{ own, provide []uint32 }

// writeIndex turns the text of a Packages file into an index.
func writeIndex(w io.Writer, packages io.Reader) error {
	iw := &indexWriter{w: bufio.NewWriterSize(w, 1<<18), names: map[string]*indexName{"": {}}}
	var bad error
	if _, err := control.ParsePackages(packages, func(p *control.Package) bool {
		if bad == nil {
			bad = iw.add(p)
		}
		return false
	}); err != nil {
		return err
	}
	if bad != nil {
		return bad
	}
	return iw.finish()
}

type indexWriter struct {
	w     *bufio.Writer
	off   uint64
	names map[string]*indexName
	rec   []byte
}

func (w *indexWriter) name(s string) *indexName {
	n := w.names[s]
	if n == nil {
		n = &indexName{}
		w.names[string([]byte(s))] = n // the key must not keep the package's text
	}
	return n
}

func (w *indexWriter) add(p *control.Package) error {
	if w.off > maxIndexFile {
		return fmt.Errorf("index has more than %d bytes", maxIndexFile)
	}
	off := uint32(w.off)
	provides, _ := p.Relations(control.Provides) // what can't be read provides nothing, as in the resolver
	for _, alternatives := range provides {
		for _, r := range alternatives {
			n := w.name(r.Name)
			n.provide = append(n.provide, off)
		}
	}
	n := w.name(p.Name)
	n.own = append(n.own, off)
	if p.Essential || p.Priority == control.PriorityRequired {
		w.names[""].own = append(w.names[""].own, off)
	}
	w.rec = appendPackage(w.rec[:0], p)
	w.write(binary.AppendUvarint(nil, uint64(len(w.rec))))
	w.write(w.rec)
	w.write(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(w.rec, castagnoli)))
	return nil
}

// write leaves errors to bufio, which keeps the first for Flush.
func (w *indexWriter) write(b []byte) {
	w.w.Write(b)
	w.off += uint64(len(b))
}

func (w *indexWriter) finish() error {
	var table, offsets []byte
	for _, name := range slices.Sorted(maps.Keys(w.names)) {
		offsets = binary.LittleEndian.AppendUint32(offsets, uint32(len(table)))
		table = appendString(table, name)
		for _, list := range [][]uint32{w.names[name].own, w.names[name].provide} {
			table = binary.AppendUvarint(table, uint64(len(list)))
			for _, off := range list {
				table = binary.AppendUvarint(table, uint64(off))
			}
		}
	}
	table = append(table, offsets...)
	footer := binary.LittleEndian.AppendUint64(nil, w.off)
	footer = binary.LittleEndian.AppendUint64(footer, uint64(len(table)))
	footer = binary.LittleEndian.AppendUint32(footer, uint32(len(w.names)))
	footer = binary.LittleEndian.AppendUint32(footer, crc32.Checksum(table, castagnoli))
	w.write(table)
	w.write(append(footer, indexMagic...))
	return w.w.Flush()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// packageStrings are the fields of a package that are stored as strings.
func packageStrings(p *control.Package) []*string {
	return []*string{&p.Name, &p.Architecture, &p.Section, &p.Source, &p.PreDepends, &p.Depends, &p.Recommends,
		&p.Suggests, &p.Provides, &p.Conflicts, &p.Breaks, &p.Replaces, &p.Filename}
}

func appendPackage(b []byte, p *control.Package) []byte {
	for _, s := range packageStrings(p) {
		b = appendString(b, *s)
	}
	b = appendString(b, p.Version.String())
	essential := byte(0)
	if p.Essential {
		essential = 1
	}
	b = append(b, byte(p.MultiArch), essential, byte(p.Priority))
	b = binary.AppendUvarint(b, uint64(p.Size))
	b = binary.AppendUvarint(b, uint64(p.InstalledSize))
	return append(b, p.SHA256[:]...)
}

var errIndex = errors.New("index is damaged")

// decoder reads what appendPackage and finish wrote; after the first mistake
// everything is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) string() string { return string(d.take(d.uvarint())) }

func (d *decoder) offsets() []uint32 {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	out := make([]uint32, 0, n)
	for range n {
		out = append(out, uint32(d.uvarint()))
	}
	return out
}

func decodePackage(b []byte) (*control.Package, error) {
	d, p := decoder{b: b}, &control.Package{}
	for _, s := range packageStrings(p) {
		*s = d.string()
	}
	version := d.string()
	flags := d.take(3)
	p.Size, p.InstalledSize = int64(d.uvarint()), int64(d.uvarint())
	sum := d.take(32)
	if d.bad || len(d.b) > 0 || p.Size < 0 || p.InstalledSize < 0 {
		return nil, errIndex
	}
	copy(p.SHA256[:], sum)
	p.MultiArch, p.Essential, p.Priority = control.MultiArch(flags[0]), flags[1] == 1, control.Priority(flags[2])
	var err error
	p.Version, err = control.ParseVersion(version)
	return p, err
}

// index is an open index file.
type index struct {
	r       io.ReaderAt
	records int64 // where the records end
	entries []byte
	offsets []byte // 4 for each name
}

// openIndex reads the table of an index of size bytes; r is used as long as
// the index is.
func openIndex(r io.ReaderAt, size int64) (*index, error) {
	footer := make([]byte, indexFooter)
	if size < int64(indexFooter) || size > maxIndexFile+maxRecord*16 {
		return nil, errIndex
	}
	if _, err := r.ReadAt(footer, size-int64(indexFooter)); err != nil {
		return nil, err
	}
	if string(footer[24:]) != indexMagic {
		return nil, errIndex
	}
	off, length := binary.LittleEndian.Uint64(footer), binary.LittleEndian.Uint64(footer[8:])
	count := uint64(binary.LittleEndian.Uint32(footer[16:]))
	end := uint64(size) - uint64(indexFooter)
	if off > end || length != end-off || count*4 > length {
		return nil, errIndex
	}
	table := make([]byte, length)
	if _, err := r.ReadAt(table, int64(off)); err != nil {
		return nil, err
	}
	if crc32.Checksum(table, castagnoli) != binary.LittleEndian.Uint32(footer[20:]) {
		return nil, errIndex
	}
	split := length - count*4
	return &index{r: r, records: int64(off), entries: table[:split], offsets: table[split:]}, nil
}

// at decodes the start of the i-th entry of the table.
func (x *index) at(i int) (name []byte, d decoder) {
	off := binary.LittleEndian.Uint32(x.offsets[4*i:])
	if uint64(off) > uint64(len(x.entries)) {
		return nil, decoder{bad: true}
	}
	d = decoder{b: x.entries[off:]}
	name = d.take(d.uvarint())
	return name, d
}

func (x *index) len() int { return len(x.offsets) / 4 }

// lookup gives the records of a name; all are empty where it is unknown.
func (x *index) lookup(name string) (indexName, error) {
	i := sort.Search(x.len(), func(i int) bool {
		n, _ := x.at(i)
		return string(n) >= name
	})
	if i == x.len() {
		return indexName{}, nil
	}
	n, d := x.at(i)
	if string(n) != name {
		return indexName{}, nil
	}
	out := indexName{own: d.offsets(), provide: d.offsets()}
	if d.bad {
		return indexName{}, errIndex
	}
	return out, nil
}

// names lists the names of packages that there are, and of virtual ones.
func (x *index) names() []string {
	out := make([]string, 0, x.len())
	for i := range x.len() {
		if n, _ := x.at(i); len(n) > 0 {
			out = append(out, string(n))
		}
	}
	return out
}

// load reads the record at an offset.
func (x *index) load(off uint32) (*control.Package, error) {
	var guess [2048]byte // most records need one read
	n, err := x.r.ReadAt(guess[:min(int64(len(guess)), max(0, x.records-int64(off)))], int64(off))
	if err != nil && err != io.EOF {
		return nil, err
	}
	length, used := binary.Uvarint(guess[:n])
	if used <= 0 || length > maxRecord || int64(off)+int64(used)+int64(length)+4 > x.records {
		return nil, errIndex
	}
	rec := guess[used:n]
	if need := int(length) + 4; len(rec) < need {
		rec = make([]byte, need)
		if _, err := x.r.ReadAt(rec, int64(off)+int64(used)); err != nil {
			return nil, err
		}
	}
	sum := binary.LittleEndian.Uint32(rec[length:])
	if rec = rec[:length]; crc32.Checksum(rec, castagnoli) != sum {
		return nil, errIndex
	}
	return decodePackage(rec)
}

// universe is several indexes, of which it reads what a request can reach.
type universe struct {
	parts []part
	from  map[*control.Package]string // the archive that a package is of
}

type part struct {
	key string // in the store
	*index
	archive string
	list    []*control.Package
	loaded  map[uint32]bool
}

// reach reads all packages that names, and the relations of kinds of what they
// name, and so on, can lead to: a resolver never looks at any other.
func (u *universe) reach(names []string, kinds []control.Kind) error {
	seen := map[string]bool{}
	for len(names) > 0 {
		name := names[len(names)-1]
		names = names[:len(names)-1]
		if seen[name] {
			continue
		}
		seen[name] = true
		fresh, err := u.load(name)
		if err != nil {
			return err
		}
		for _, p := range fresh {
			names = append(names, related(p, kinds)...)
		}
	}
	return nil
}

// load reads the packages of a name and those that provide it, of all parts.
func (u *universe) load(name string) ([]*control.Package, error) {
	var fresh []*control.Package
	for i := range u.parts {
		part := &u.parts[i]
		n, err := part.lookup(name)
		if err != nil {
			return nil, err
		}
		for _, off := range append(n.own, n.provide...) {
			if part.loaded[off] {
				continue
			}
			part.loaded[off] = true
			p, err := part.index.load(off)
			if err != nil {
				return nil, err
			}
			part.list = append(part.list, p)
			u.from[p] = part.archive
			fresh = append(fresh, p)
		}
	}
	return fresh, nil
}

// related lists the names that a package's relations of some kinds have. One
// that can't be read is left to the resolver, which says so if it matters.
func related(p *control.Package, kinds []control.Kind) []string {
	var names []string
	for _, k := range kinds {
		relations, _ := p.Relations(k)
		for _, alternatives := range relations {
			for _, r := range alternatives {
				names = append(names, r.Name)
			}
		}
	}
	return names
}

// lists gives what was read, part by part, each ordered by name and version.
func (u *universe) lists() [][]*control.Package {
	var out [][]*control.Package
	for _, p := range u.parts {
		slices.SortStableFunc(p.list, func(a, b *control.Package) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), a.Version.Compare(b.Version))
		})
		out = append(out, p.list)
	}
	return out
}
