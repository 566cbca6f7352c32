package ext4

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
	"time"

	"wolffia/internal/tree"
)

// TestGolden notices when the bytes change, which a lock file or a published
// digest may depend on. Where that is meant, put the new digests here and say
// so in the release notes.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		o      Options
		digest string
	}{
		{Options{Type: Ext2, BlockSize: 1024}, "0dbafce11a4007884aa21cb7f0bc6f8e96c2930a21677322317981c91a7de86b"},
		{Options{Type: Ext3, BlockSize: 2048}, "d198d7d9cfdae228fe540182fd70246969e5f0130b999c9d4ecda3a96aee964e"},
		{Options{BlockSize: 4096, Label: "golden", Free: 1 << 20, Time: time.Unix(1_700_000_000, 0)}, "d37f323eaa159e30b708e0e9678adc7ad098ab10bf084634225824bc516db2ba"},
		{Options{BlockSize: 1024, NoJournal: true, Checksums: true, Size: 16 << 20}, "fd4d0fac8c64136336de5dba8975fe9a2cb2b89d9dc44480ef85cf9d9a716d14"},
	} {
		if got := fmt.Sprintf("%x", sha256.Sum256(specimen(t, c.o))); got != c.digest {
			t.Errorf("%+v: the image's digest is %s", c.o, got)
		}
	}
}

func Example() {
	t := tree.New()
	_ = t.MkdirAll("/etc", 0o755)
	_ = t.Put("/etc/motd", tree.File(0o644, tree.Bytes("hello\n")))

	f, err := os.CreateTemp("", "root-*.img")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := Write(f, t, Options{Size: 16 << 20, Label: "root", Checksums: true}); err != nil {
		panic(err)
	}

	fs, err := Open(f, 16<<20)
	if err != nil {
		panic(err)
	}
	again, err := fs.Tree(TreeOptions{})
	if err != nil {
		panic(err)
	}
	motd, err := again.ReadFile("/etc/motd", 1<<10)
	fmt.Printf("%s %s %s%v\n", fs.Info().Type, fs.Info().Label, motd, err)
	// Output:
	// ext4 root hello
	// <nil>
}
