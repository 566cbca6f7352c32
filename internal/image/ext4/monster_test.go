package ext4

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tree"
)

// holey is a sparse file: pieces of data in order, by offset.
type holey struct {
	size   int64
	pieces []holeyPiece
}

type holeyPiece struct {
	off  int64
	data string
}

func (h *holey) put(off int64, data string) {
	h.pieces = append(h.pieces, holeyPiece{off, data})
	h.size = max(h.size, off+int64(len(data)))
}

func (h *holey) Size() int64 { return h.size }
func (h *holey) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(h, 0, h.size)), nil
}
func (h *holey) OpenAt() (tree.ReaderAtCloser, error) { return h, nil }
func (h *holey) Close() error                         { return nil }

func (h *holey) Data() (all []tree.Extent, err error) {
	for _, p := range h.pieces {
		all = append(all, tree.Extent{Off: p.off, Len: int64(len(p.data))})
	}
	return all, nil
}

func (h *holey) ReadAt(b []byte, off int64) (int, error) {
	n := min(int64(len(b)), h.size-off)
	if n <= 0 {
		return 0, io.EOF
	}
	clear(b)
	first := sort.Search(len(h.pieces), func(i int) bool { return h.pieces[i].off+int64(len(h.pieces[i].data)) > off })
	for _, p := range h.pieces[first:] {
		if p.off >= off+n {
			break
		}
		if from := max(p.off, off); from < min(off+n, p.off+int64(len(p.data))) {
			copy(b[from-off:n], p.data[from-p.off:])
		}
	}
	if n < int64(len(b)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// sameData compares two sparse files without reading their holes.
func sameData(t *testing.T, got tree.Content, want *holey) {
	t.Helper()
	if got.Size() != want.size {
		t.Fatalf("size %d, want %d", got.Size(), want.size)
	}
	s := got.(tree.Sparse)
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenAt()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	check := func(off, n int64) {
		g, w := make([]byte, n), make([]byte, n)
		if _, err := r.ReadAt(g, off); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		_, _ = want.ReadAt(w, off)
		if !bytes.Equal(g, w) {
			t.Fatalf("%d bytes from %d differ", n, off)
		}
	}
	for _, e := range data {
		if e.Len > 1<<24 {
			t.Fatalf("%d bytes of data from %d where there are few", e.Len, e.Off)
		}
		check(e.Off, e.Len)
	}
	for _, p := range want.pieces[:min(len(want.pieces), 1000)] {
		check(p.off, int64(len(p.data)))
	}
}

// reaches has data at both sides of every border of a block map.
func reaches(bs int64, limit int64) *holey {
	h := &holey{}
	p, at := bs/4, int64(0)
	for _, blocks := range []int64{12, p, p * p, p * p * p} {
		at += blocks * bs
		for _, off := range []int64{at - 4*p*bs, at - bs - 1, at + bs*p + 5} {
			if off > 0 && off > h.size && off < limit-100 {
				h.put(off, fmt.Sprintf("data at %d", off))
			}
		}
	}
	if h.size < limit {
		h.put(limit-5, "limit")
	}
	return h
}

// comb has every other block, count of them.
func comb(bs int64, count int) *holey {
	h := &holey{}
	for i := range int64(count) {
		h.put(2*i*bs, fmt.Sprint(i))
	}
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// monster has all that is known to break writers, but for the crowded
// directories.
func monster(t *testing.T, o Options) *tree.Tree {
	tr := tree.New()
	put := func(name string, n *tree.Node) {
		t.Helper()
		n.ModTime = time.Unix(1<<33, 123456789).UTC()
		must(t, tr.Put(name, n))
	}
	bs := int64(o.BlockSize)
	c := collector{o: &o}
	put("/reaches", tree.File(0o644, reaches(bs, min(1<<40, int64(c.maxFile())))))
	put("/comb", tree.File(0o644, comb(bs, 30<<20/int(bs))))
	put("/hole", tree.File(0o644, &holey{size: 1 << 34}))
	put("/short", tree.File(0o644, &holey{size: 10}))
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB, with blocks of zeros in it
	big = big[:1<<20] + strings.Repeat("\x00", 1<<20) + big[1<<20:] + strings.Repeat("\x00", 100000)
	put("/big", tree.File(0o644, tree.Bytes(big)))
	put("/zeros", tree.File(0o644, tree.Bytes(make([]byte, 3<<20+1))))
	put("/names", tree.Dir(0o755))
	for b := 1; b < 256; b++ {
		if b != '/' && b != '.' {
			put("/names/"+string([]byte{byte(b)}), tree.Dir(0o700))
			put("/names/"+strings.Repeat(string([]byte{byte(b)}), 255), tree.File(0o600, nil))
		}
	}
	deep := ""
	for len(deep) < tree.MaxPath-200 {
		deep = path.Join(deep, "/"+strings.Repeat("d", 98))
		put(deep, tree.Dir(0o755))
	}
	shallow := ""
	for len(shallow) < tree.MaxPath-20 {
		shallow += "/e"
		put(shallow, tree.Dir(0o755))
	}
	put("/sym", tree.Dir(0o755))
	for _, n := range []int{1, 58, 59, 60, 61, 1023} {
		put(fmt.Sprintf("/sym/%d", n), tree.Symlink(strings.Repeat("t", n)))
	}
	put("/sym/most", tree.Symlink(strings.Repeat("/abc", (int(bs)-4)/4)))
	for i, at := range []int64{-1 << 31, -1, 0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, maxTime} {
		n := tree.File(0o644, nil)
		must(t, tr.Put(fmt.Sprintf("/time%d", i), n))
		n.ModTime = time.Unix(at, 999999999).UTC()
	}
	for i, d := range [][2]uint32{{0, 0}, {1, 3}, {255, 255}, {256, 0}, {0, 256}, {4095, 1<<20 - 1}} {
		put(fmt.Sprintf("/block%d", i), tree.Device(tree.TypeBlock, 0o600, d[0], d[1]))
		put(fmt.Sprintf("/char%d", i), tree.Device(tree.TypeChar, 0o600, d[0], d[1]))
	}
	put("/lost+found", tree.Dir(0o755))
	put("/lost+found/found", tree.File(0o4755, tree.Bytes("found")))
	attributes(put, int(bs), o.Type)
	return tr
}

// attributes adds files with attributes of all kinds, up to the most that fit.
func attributes(put func(string, *tree.Node), bs int, kind Type) {
	file := func(name string, x map[string]string) {
		n := tree.File(0o644, tree.Bytes(name))
		n.Xattrs = map[string][]byte{}
		for k, v := range x {
			n.Xattrs[k] = []byte(v)
		}
		put(name, n)
	}
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\xe8\x03\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x08\x00\x06\x00\xd0\x07\x00\x00" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	file("/xattr", map[string]string{
		"user.empty": "", "user.a": "b", "trusted.overlay.opaque": "y", "security.selinux": "system_u:object_r:bin_t:s0\x00",
		"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "system.posix_acl_access": acl,
	})
	dir := tree.Dir(0o755)
	dir.Xattrs = map[string][]byte{"system.posix_acl_default": []byte(acl), "user.\xff\x80name": []byte("high bytes")}
	put("/xdir", dir)
	file("/xlarge", map[string]string{"user.l": strings.Repeat("v", bs-xattrHead-4-xattrEntry-4)})
	file("/xname", map[string]string{"user." + strings.Repeat("n", 255): "v"})
	full := map[string]string{"user.l": strings.Repeat("v", bs-xattrHead-4-xattrEntry-4)}
	if kind != Ext2 {
		full["user.m"] = strings.Repeat("w", inodeRoom-8-xattrEntry-4) // in the inode
		full["user.l"], full["user.m"] = full["user.m"], full["user.l"]
	}
	file("/xfull", full)
	link := tree.Symlink("short")
	link.Xattrs = map[string][]byte{"trusted.t": []byte(strings.Repeat("x", 300))}
	put("/xlink", link)
	for i := range 2100 { // more than may share one block
		file(fmt.Sprintf("/shared%d", i), map[string]string{"user.shared": strings.Repeat("s", 200)})
	}
}

// crowd has two directories with more entries than most programs are ready for.
func crowd(t *testing.T) *tree.Tree {
	tr := tree.New()
	must(t, tr.Put("/dirs", tree.Dir(0o755)))
	for i := range maxLinks + 1 {
		must(t, tr.Put(fmt.Sprintf("/dirs/d%d", i), tree.Dir(0o755)))
	}
	must(t, tr.Put("/files", tree.Dir(0o755)))
	for i := range 100_000 {
		must(t, tr.Put(fmt.Sprintf("/files/file-%06d", i), tree.File(0o644, nil)))
	}
	must(t, tr.Put("/links", tree.Dir(0o755)))
	must(t, tr.Put("/links/0", tree.File(0o600, tree.Bytes("many"))))
	for i := range maxLinks - 1 {
		must(t, tr.Link("/links/0", fmt.Sprintf("/links/%d", i+1)))
	}
	return tr
}

// sameMonster compares what has no terabytes, and that apart.
func sameMonster(t *testing.T, got, want *tree.Tree) {
	t.Helper()
	for _, name := range []string{"/reaches", "/comb", "/hole", "/short"} {
		sameData(t, got.Get(name).Content, want.Get(name).Content.(*holey))
	}
}
