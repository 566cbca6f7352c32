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

func TestAgainstXZ(t *testing.T) {
	text, code, mixed := someText(700_000), program(t), bytes.Join([][]byte{someText(90_000), noise(200_000), make([]byte, 300_000), someText(9000), noise(10)}, nil)
	same := func(name string, file, want []byte) {
		t.Helper()
		for way, decode := range ways {
			for _, workers := range []int{1, 3} {
				got, err := decode(file, Options{Workers: workers})
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %s: %d bytes of %d, %v", name, way, len(got), len(want), err)
				}
			}
		}
	}
	for _, args := range []string{
		"-0", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9", "-0e", "-6e", "-9e",
		"-T1", "-T2 --block-size=40001", "--block-size=100000", "--block-size=7777",
		"--check=none", "--check=crc32", "--check=crc64", "--check=sha256",
		"--lzma2=lc=0", "--lzma2=lc=4", "--lzma2=lp=4,lc=0", "--lzma2=pb=0", "--lzma2=pb=4,lp=2,lc=2", "--lzma2=pb=0,lp=0,lc=0",
		"--lzma2=dict=4KiB", "--lzma2=dict=12KiB", "--lzma2=dict=1MiB,nice=273", "--lzma2=mode=fast,mf=hc3,nice=4",
		"--x86 --lzma2=preset=1", "--arm --lzma2=preset=1", "--armthumb --lzma2=preset=1", "--arm64 --lzma2=preset=1",
		"--x86=start=4096 --lzma2=preset=0", "--x86 --arm64 --arm --lzma2=preset=0",
	} {
		a := strings.Fields(args)
		same(args+" text", xzOf(t, text, a...), text)
		same(args+" mixed", xzOf(t, mixed, a...), mixed)
		if strings.Contains(args, "--lzma2") {
			same(args+" code", xzOf(t, code, a...), code)
			same(args+" branches", xzOf(t, branches(300_000), a...), branches(300_000))
		}
		for n := range 12 {
			same(args+" few", xzOf(t, code[:n], a...), code[:n])
		}
	}
	blocks, more, empty := xzOf(t, text, "--block-size=50000"), xzOf(t, []byte("and more")), xzOf(t, nil)
	both := append(bytes.Clone(text), "and more"...)
	same("streams", bytes.Join([][]byte{blocks, more, empty}, nil), both)
	same("streams with padding", bytes.Join([][]byte{blocks, more, nil}, make([]byte, 5000)), both)
	same("empty streams", bytes.Join([][]byte{empty, empty, more}, make([]byte, 4)), []byte("and more"))
}
