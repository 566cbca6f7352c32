package fat

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/image/finding"
	"wolffia/internal/tooltest"
)

func check(t testing.TB, b []byte) (*finding.List, error) {
	t.Helper()
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return f.Check(t.Context())
}

func checkClean(t testing.TB, b []byte) {
	t.Helper()
	l, err := check(t, b)
	must(t, err)
	for _, f := range l.All {
		t.Errorf("%v", f)
	}
}

// TestCheckOwn finds nothing in what we write.
func TestCheckOwn(t *testing.T) {
	kindsOf(t, func(t *testing.T, o Options) {
		b, err := os.ReadFile(image(t, specimen(t), o))
		must(t, err)
		checkClean(t, b)
	})
}

// made is a file system of mkfs.vfat with files by mtools.
func made(t testing.TB, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	src, name := filepath.Join(dir, "src"), filepath.Join(dir, "img")
	must(t, os.MkdirAll(filepath.Join(src, "DIR/deeper name"), 0o755))
	for i := range 20 {
		text := bytes.Repeat([]byte("text"), i*300)
		must(t, os.WriteFile(filepath.Join(src, "DIR", fmt.Sprintf("a longer name %d", i)), text, 0o644))
		must(t, os.WriteFile(filepath.Join(src, "DIR/deeper name", fmt.Sprintf("FILE%d", i)), text, 0o644))
	}
	tool(t, "mkfs.vfat", "dosfstools", append(args, "-n", "LABEL", "-C", name, "40960")...)
	tool(t, "mcopy", "mtools", "-s", "-i", name, src+"/DIR", "::/")
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// kindArgs make all kinds of 40 MiB.
var kindArgs = [][]string{{"-F", "12", "-s", "32"}, {"-F", "16"}, {"-F", "32", "-s", "1"}}

// TestCheckMade finds nothing in what mkfs.vfat and mtools write.
func TestCheckMade(t *testing.T) {
	for _, args := range kindArgs {
		t.Run(strings.Join(args, " "), func(t *testing.T) { checkClean(t, made(t, args...)) })
	}
}

// fsckFinds tells whether fsck.vfat finds anything, and what it says.
func fsckFinds(t testing.TB, b []byte) (bad bool, said string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "img")
	must(t, os.WriteFile(name, b, 0o600))
	cmd := exec.Command(tooltest.Require(t, "fsck.vfat", "dosfstools"), "-n", name)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		bad = bad || !silent.MatchString(strings.TrimSuffix(line, "\n"))
	}
	return bad || err != nil, string(out)
}

// TestCheckBroken damages a FAT16 in each way that Check claims to find.
// fsck.vfat must find each, too: else it is no damage.
func TestCheckBroken(t *testing.T) {
	whole := bytesOf(t, small(t), Options{Type: FAT16, ClusterSize: 512})
	checkClean(t, whole)
	for _, c := range []struct {
		name   string
		damage func(d damage)
		say    string
	}{
		{"FATs", func(d damage) { le.PutUint16(d.entry(3), 0) }, "FAT 2: it differs from the first, at cluster 3"},
		{"lost", func(d damage) { d.both(1000, 0xFFFF) }, "FAT: 1 clusters are taken and belong to no file, the first is 1000"},
		{"cross link", func(d damage) { le.PutUint16(d.dirent("FILE    TXT")[26:], uint16(d.first("BOOTX64 EFI"))) }, "meets itself or another"},
		{"loop", func(d damage) { n := d.first("BOOTX64 EFI"); d.both(n+1, n) }, `"/EFI/BOOT/BOOTX64.EFI": its chain meets itself`},
		{"short", func(d damage) { d.both(d.first("BOOTX64 EFI"), 0xFFFF) }, "its chain has 1 clusters where its size needs 12"},
		{"long", func(d damage) { le.PutUint32(d.dirent("BOOTX64 EFI")[28:], 600) }, "its chain has 12 clusters where its size needs 2"},
		{"beyond", func(d damage) { d.both(d.first("BOOTX64 EFI"), 0xF000) }, "leads to cluster 61440, which is none"},
		{"free within", func(d damage) { d.both(d.first("BOOTX64 EFI"), 0) }, "leads to cluster 0, which is none"},
		{"empty with cluster", func(d damage) { le.PutUint32(d.dirent("FILE    TXT")[28:], 0) }, "its chain has 1 clusters where its size needs 0"},
		{"no cluster", func(d damage) { le.PutUint16(d.dirent("FILE    TXT")[26:], 0) }, "it has 6 bytes, and no cluster"},
		{"dot", func(d damage) { le.PutUint16(d.dirent(".          ")[26:], 99) }, `its "." leads to cluster 99`},
		{"dot dot", func(d damage) { le.PutUint16(d.dirent("..         ")[26:], 99) }, `its ".." leads to cluster 99`},
		{"dot missing", func(d damage) { d.dirent(".          ")[0] = 'X' }, `entry 1 of it is not "."`},
		{"characters", func(d damage) { d.dirent("FILE    TXT")[1] = '*' }, "has characters that none can have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(whole)
			c.damage(damage{b})
			l, err := check(t, b)
			must(t, err)
			if !strings.Contains(fmt.Sprint(l.All), c.say) || l.Problems == 0 {
				t.Errorf("Check says %v, not %q", l.All, c.say)
			}
			if bad, said := fsckFinds(t, b); !bad {
				t.Errorf("fsck.vfat finds nothing:\n%s", said)
			}
		})
	}
}

// both sets an entry in both FATs.
func (d damage) both(n, v int) {
	size := int(le.Uint16(d.b[22:])) * 512
	le.PutUint16(d.entry(n), uint16(v))
	le.PutUint16(d.entry(n)[size:], uint16(v))
}

// TestCheckRandom flips bits of FATs and directories at random. Where fsck.vfat
// finds anything, Check must, too.
func TestCheckRandom(t *testing.T) {
	const rounds = 100
	for _, args := range kindArgs {
		whole := made(t, args...)
		f, err := Open(bytes.NewReader(whole), int64(len(whole)))
		must(t, err)
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			for range rounds {
				var at int64
				switch r.IntN(3) {
				case 0:
					at = f.table + 2*f.kind.bits/8 + r.Int64N(64*f.kind.bits/8)
				case 1:
					at = f.table + f.tableSize + 2*f.kind.bits/8 + r.Int64N(64*f.kind.bits/8)
				case 2:
					at = int64(bytes.Index(whole, []byte("DIR        "))) + r.Int64N(direntSize)
					if r.IntN(2) == 0 {
						at = int64(bytes.Index(whole, []byte("FILE3      "))) + r.Int64N(3*direntSize)
					}
				}
				b := bytes.Clone(whole)
				b[at] ^= 1 << r.IntN(8)
				bad, said := fsckFinds(t, b)
				l, err := check(t, b)
				found := err != nil || l.Problems > 0
				if bad && !found && !beyond.MatchString(said) {
					t.Errorf("byte %d: Check finds nothing; fsck.vfat:\n%s", at, said)
				}
			}
		})
	}
}

// beyond is what Check does not claim to find.
var beyond = regexp.MustCompile(`[Ll]ong file ?name|Dirty bit`)

// FuzzCheck must come to an end, whatever it gets.
func FuzzCheck(f *testing.F) {
	whole := bytesOf(f, small(f), Options{Type: FAT16, ClusterSize: 512})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		if l, err := check(t, b); err == nil && len(l.All) > finding.Max {
			t.Errorf("%d findings", len(l.All))
		}
	})
}
