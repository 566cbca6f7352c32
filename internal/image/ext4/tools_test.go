package ext4

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tooltest"

	"wolffia/internal/tree"
	"wolffia/internal/tree/treetest"
)

// image writes tr into a new file.
func image(t testing.TB, tr *tree.Tree, o Options) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fs.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	err = Write(f, tr, o)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// silent is all that e2fsck says about what is in order.
var silent = regexp.MustCompile(`^(e2fsck .*|Pass \d: .*|[^:]+: \d+/\d+ files \(.* non-contiguous\), \d+/\d+ blocks)$`)

// fsck fails the test where e2fsck, or Check, has anything to say.
func fsck(t testing.TB, name string) {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, "e2fsck", "e2fsprogs"), "-fn", name)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	bad := err != nil
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		bad = bad || !silent.MatchString(line)
	}
	if bad {
		t.Fatalf("e2fsck: %v\n%.5000s", err, out)
	}
	l, err := open(t, name).Check(t.Context())
	must(t, err)
	for _, f := range l.All {
		t.Errorf("Check: %v", f)
	}
}

// kinds are all the combinations that there are.
func kinds(t *testing.T, fn func(t *testing.T, o Options)) {
	for _, o := range []Options{{Type: Ext2}, {Type: Ext3}, {Type: Ext4}, {Type: Ext4, NoJournal: true, Checksums: true}, {Type: Ext4, Checksums: true, wide: true}} {
		for _, o.BlockSize = range []int{1024, 2048, 4096} {
			name := fmt.Sprintf("%s %d", o.Type, o.BlockSize)
			if o.Checksums {
				name += " checksums"
			}
			if o.wide {
				name += " 64bit"
			}
			t.Run(name, func(t *testing.T) { fn(t, o) })
		}
	}
}

// sizes are all types with blocks of all sizes. Under the race detector, which
// takes ten times as long and sees the same of each, they are each type and each
// size once.
func sizes(t *testing.T, fn func(t *testing.T, o Options)) {
	for i, o := range []Options{{Type: Ext4}, {Type: Ext2}, {Type: Ext3}} {
		for j, size := range []int{1024, 2048, 4096} {
			if raceDetector && i != j {
				continue
			}
			o.BlockSize = size
			o.Checksums = o.Type == Ext4 && o.BlockSize == 1024
			t.Run(fmt.Sprintf("%s %d", o.Type, o.BlockSize), func(t *testing.T) { fn(t, o) })
		}
	}
}

// debugfs runs commands, one to a line, on an image.
func debugfs(t *testing.T, name, commands string) string {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, "debugfs", "e2fsprogs"), "-f", "-", name)
	cmd.Env, cmd.Stdin = append(os.Environ(), "LC_ALL=C", "TZ=UTC"), strings.NewReader(commands)
	out, err := cmd.Output()
	must(t, err)
	return string(out)
}

// TestDebugfs compares each inode of a large tree with what debugfs makes of it.
func TestDebugfs(t *testing.T) {
	tr := treetest.Random(17, treetest.Options{Entries: 10_000, MaxSize: 8000, LinkedLinks: true, Sockets: true})
	sizes(t, func(t *testing.T, o Options) {
		name := image(t, tr, o)
		fsck(t, name)
		treetest.Equal(t, read(t, name), tr)
		c, _, err := plan(tr, &o)
		must(t, err)
		var commands strings.Builder
		var all []*inode
		for i := range c.all() {
			all = append(all, i)
			fmt.Fprintf(&commands, "stat <%d>\n", i.number)
		}
		parts := strings.Split(debugfs(t, name, commands.String()), "debugfs: stat <")[1:]
		for k, i := range all {
			n := i.node
			size := fmt.Sprint(n.Size())
			if n.IsDir() {
				size = fmt.Sprint(i.runs[0].count * uint64(o.BlockSize))
			}
			got := strings.Join(strings.Fields(parts[k]), " ")
			for _, want := range []string{
				fmt.Sprintf("Inode: %d Type: %s Mode: 0%03o", i.number, debugfsTypes[n.Type()], n.Mode&0o7777),
				fmt.Sprintf("User: %d Group: %d", int32(n.UID), int32(n.GID)),
				fmt.Sprintf("Size: %s ", size), fmt.Sprintf("Links: %d ", i.links),
				fmt.Sprintf("mtime: 0x%08x:%08x", uint32(n.ModTime.Unix()), uint32(n.ModTime.Nanosecond())<<2|uint32((n.ModTime.Unix()-int64(int32(n.ModTime.Unix())))>>32)),
			} {
				if n.Type() == tree.TypeBlock || n.Type() == tree.TypeChar {
					want = strings.TrimPrefix(want, "Size: 0 ")
				}
				if !strings.Contains(got, want) && i.number != firstInode {
					t.Fatalf("inode %d (%q): debugfs says\n%s\nwithout %q", i.number, i.path(), got, want)
				}
			}
		}
	})
}

var debugfsTypes = map[uint32]string{
	tree.TypeRegular: "regular", tree.TypeDir: "directory", tree.TypeSymlink: "symlink", tree.TypeBlock: "block special",
	tree.TypeChar: "character special", tree.TypeFIFO: "FIFO", tree.TypeSocket: "socket",
}

// TestDebugfsContents lets debugfs unpack the files and list the attributes.
func TestDebugfsContents(t *testing.T) {
	tr := treetest.Random(19, treetest.Options{Entries: 300, MaxSize: 200_000})
	h := tree.File(0o644, tree.Bytes(strings.Repeat("indirect ", 200_000)))
	h.Xattrs = map[string][]byte{"user.small": []byte("small value"), "security.large": []byte(strings.Repeat("large", 50))}
	must(t, tr.Put("/attributes", h))
	sizes(t, func(t *testing.T, o Options) {
		name, dir := image(t, tr, o), t.TempDir()
		out := debugfs(t, name, "rdump / "+dir+"\nea_list /attributes\n")
		for _, want := range []string{`user.small (11) = "small value"`, `security.large (250)`} {
			if !strings.Contains(out, want) {
				t.Errorf("debugfs lists the attributes as\n%s", out)
			}
		}
		seen := map[*tree.Node]bool{}
		err := tr.Walk(func(path string, n *tree.Node) error {
			if n.Type() != tree.TypeRegular || seen[n] {
				return nil
			}
			seen[n] = true
			want, err := tr.ReadFile(path, 1<<22)
			must(t, err)
			if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(got) != string(want) {
				t.Errorf("debugfs gives another content of %q: %v", path, err)
			}
			return nil
		})
		must(t, err)
	})
}

func uuid(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// TestHash compares the hash of names of all lengths with debugfs's.
func TestHash(t *testing.T) {
	seed := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	words := hashSeed(seed)
	name := image(t, tree.New(), Options{})
	var commands, want strings.Builder
	for n := 1; n < 256; n++ {
		s := strings.Repeat("a-Z_0.:", 37)[:n]
		fmt.Fprintf(&commands, "dx_hash -h half_md4 -s %s %s\n", uuid(seed), s)
		fmt.Fprintf(&want, "Hash of %s is %#x\n", s, halfMD4(s, &words))
	}
	var got strings.Builder
	for line := range strings.SplitSeq(debugfs(t, name, commands.String()), "\n") {
		if hash, _, ok := strings.Cut(line, " (minor"); ok {
			fmt.Fprintln(&got, hash)
		}
	}
	if got.String() != want.String() {
		g, w := strings.Split(got.String(), "\n"), strings.Split(want.String(), "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Fatalf("got %s\nwant %s", g[i], w[i])
			}
		}
		t.Fatalf("%d lines, not %d", len(g), len(w))
	}
}
