package xz

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"wolffia/internal/tooltest"
)

// xzOf compresses with the reference tool.
func xzOf(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, "xz", "xz-utils"), append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// memory is an io.WriterAt.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(off) + len(p); end > len(m.data) {
		m.data = append(m.data, make([]byte, end-len(m.data))...)
	}
	return copy(m.data[off:], p), nil
}

func decode(file []byte, opts Options) ([]byte, error) {
	var m memory
	n, err := Decode(context.Background(), bytes.NewReader(file), int64(len(file)), &m, opts)
	if err == nil && n != int64(len(m.data)) {
		err = errors.New("the length is not that of the data")
	}
	return m.data, err
}

func read(file []byte, opts Options) ([]byte, error) {
	return io.ReadAll(NewReader(bytes.NewReader(file), opts))
}

// ways are the two to decode a file.
var ways = map[string]func([]byte, Options) ([]byte, error){"Decode": decode, "Reader": read}

func someText(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString([]string{"frame ", "port ", "inode ", "lease ", "tap ", "socket\n"}[rnd.IntN(6)])
	}
	return b.Bytes()[:n]
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// program gives machine code, this test's own.
func program(t testing.TB) []byte {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 3<<20))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// branches gives bytes that are full of what the filters change.
func branches(n int) []byte {
	rnd := rand.New(rand.NewPCG(3, 5))
	some := []byte{0xe8, 0xe9, 0, 0, 0xff, 0xff, 0xeb, 0xf0, 0xf8, 0x94, 0x97, 0x90, 0xb0, 1}
	b := make([]byte, n)
	for i := range b {
		if b[i] = byte(rnd.Uint32()); rnd.IntN(4) > 0 {
			b[i] = some[rnd.IntN(len(some))]
		}
	}
	return b
}

// same decodes a file in both ways.
func same(t *testing.T, name string, file, want []byte) {
	t.Helper()
	for way, decode := range ways {
		got, err := decode(file, Options{})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %s: %d bytes of %d, %v", name, way, len(got), len(want), err)
		}
	}
}

func TestAgainstXZ(t *testing.T) {
	// What compresses well, badly and not at all, in turns.
	mixed := bytes.Join([][]byte{someText(90_000), noise(150_000), make([]byte, 100_000), program(t)[:200_000], noise(10), someText(9000)}, nil)
	for _, args := range []string{
		"-0", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9", "-0e", "-6e", "-9e",
		"-T1", "-T2 --block-size=40001", "-1 --block-size=100000", "-0 --block-size=7777",
		"-1 --check=none", "-1 --check=crc32", "-1 --check=crc64", "-1 --check=sha256",
		"--lzma2=lc=0", "--lzma2=lc=4", "--lzma2=lp=4,lc=0", "--lzma2=pb=0", "--lzma2=pb=4,lp=2,lc=2", "--lzma2=pb=0,lp=0,lc=0",
		"--lzma2=dict=4KiB", "--lzma2=dict=12KiB", "--lzma2=dict=1MiB,nice=273", "--lzma2=mode=fast,mf=hc3,nice=4",
	} {
		same(t, args, xzOf(t, mixed, strings.Fields(args)...), mixed)
	}
	blocks, more, empty := xzOf(t, mixed, "-1", "--block-size=50000"), xzOf(t, []byte("and more")), xzOf(t, nil)
	both := append(bytes.Clone(mixed), "and more"...)
	same(t, "streams", bytes.Join([][]byte{blocks, more, empty}, nil), both)
	same(t, "streams with padding", bytes.Join([][]byte{blocks, more, nil}, make([]byte, 5000)), both)
	same(t, "empty streams", bytes.Join([][]byte{empty, empty, more}, make([]byte, 4)), []byte("and more"))
	for n := range 20 {
		same(t, "few bytes", xzOf(t, mixed[:n], "-0"), mixed[:n])
	}
	for _, workers := range []int{1, 3, 100} {
		if got, err := decode(blocks, Options{Workers: workers}); err != nil || !bytes.Equal(got, mixed) {
			t.Errorf("%d workers: %d bytes, %v", workers, len(got), err)
		}
	}
}

// TestFilters undoes filters on a program, and on bytes that are full of what
// they change.
func TestFilters(t *testing.T) {
	for _, args := range []string{
		"--x86", "--arm", "--armthumb", "--arm64", "--x86=start=4096", "--arm64=start=8192", "--x86 --arm64 --armthumb",
	} {
		for _, data := range [][]byte{program(t)[:700_000], branches(100_000), branches(3), branches(4), branches(5), branches(6), branches(9)} {
			same(t, args, xzOf(t, data, append(strings.Fields(args), "--lzma2=preset=0")...), data)
		}
	}
	for args, want := range map[string]string{
		"--delta=dist=4": "the delta filter", "--powerpc": "the PowerPC filter", "--ia64": "the IA-64 filter", "--sparc": "the SPARC filter",
	} {
		for way, decode := range ways {
			_, err := decode(xzOf(t, []byte("data"), args, "--lzma2=preset=0"), Options{})
			u, ok := errors.AsType[*UnsupportedError](err)
			if !ok || u.What != want {
				t.Errorf("%s: %s: %v", args, way, err)
			}
		}
	}
}

// TestLargeDistances has matches over most of a window that moves.
func TestLargeDistances(t *testing.T) {
	part := noise(700_000)
	var data []byte
	for i := range 12 {
		data = append(append(data, part...), someText(200_000+i)...)
	}
	same(t, "far matches", xzOf(t, data, "--lzma2=preset=0,dict=1MiB"), data)
}
