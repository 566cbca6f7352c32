package compress

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// inputs are kinds of data, by name.
func inputs() map[string][]byte {
	r := rand.New(rand.NewChaCha8([32]byte{7}))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var words strings.Builder
	for words.Len() < 5<<20 {
		words.WriteString([]string{"initramfs", " ", "the ", "kernel", "\n", "mount", "/dev", "abc"}[r.IntN(8)])
		if r.IntN(40) == 0 {
			words.Write(noise[:r.IntN(500)])
		}
	}
	// Far more symbols of great rarity than words of 15 bits have room for.
	var skewed []byte
	for n, b := 1, 0; b < 24; n, b = n*2, b+1 {
		for range min(n, 1<<17) {
			skewed = append(skewed, byte(r.IntN(1+b*b)))
		}
	}
	// Distances at the window's bound, lengths at a match's, and the same at the
	// ends of blocks.
	var far []byte
	for _, distance := range []int{1, 2, 257, 258, 259, 32767, 32768, 32769, gzipBlock - 3, gzipBlock} {
		piece := noise[distance : distance+300]
		far = append(append(append(far, piece...), noise[1<<20:1<<20+max(0, distance-300)]...), piece...)
	}
	return map[string][]byte{
		"nothing": nil, "a byte": {'x'}, "two": []byte("ab"), "three": []byte("aaa"), "four": []byte("abca"),
		"noise": noise, "zeros": make([]byte, 2*gzipBlock+5), "words": []byte(words.String()), "skewed": skewed, "far": far,
		"block": noise[:gzipBlock], "blocks": bytes.Repeat(noise[:gzipBlock/2], 4), "one less": noise[:gzipBlock-1], "one more": noise[:gzipBlock+1],
	}
}

func packed(t testing.TB, data []byte, piece int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, end, err := Writer(&out, Gzip)
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(piece, len(rest))
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestGzip has Go's reader and gzip itself unpack what was packed, and the same
// bytes come of any pieces and any number of processors.
func TestGzip(t *testing.T) {
	tool := tooltest.Require(t, "gzip", "gzip")
	for name, data := range inputs() {
		t.Run(name, func(t *testing.T) {
			z := packed(t, data, len(data)+1)
			r, err := gzip.NewReader(bytes.NewReader(z))
			if err != nil {
				t.Fatal(err)
			}
			r.Multistream(false)
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("Go reads %d bytes of %d, %v", len(got), len(data), err)
			}
			cmd := exec.Command(tool, "-dc")
			cmd.Stdin = bytes.NewReader(z)
			if got, err := cmd.Output(); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("gzip reads %d bytes of %d, %v", len(got), len(data), err)
			}
			if len(z) > len(data)+len(data)/5000+64 {
				t.Errorf("%d bytes became %d", len(data), len(z))
			}
			before := runtime.GOMAXPROCS(1)
			again := packed(t, data, 77777)
			runtime.GOMAXPROCS(before)
			if !bytes.Equal(again, z) {
				t.Error("in pieces, on one processor, other bytes come out")
			}
		})
	}
}

// TestGzipSize holds a program and sources to the size that gzip -6 gives them.
func TestGzipSize(t *testing.T) {
	tool := tooltest.Require(t, "gzip", "gzip")
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	var sources []byte
	names, err := filepath.Glob("../*/*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d sources, %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, text...)
	}
	for name, data := range map[string][]byte{"a program": program, "sources": sources} {
		cmd := exec.Command(tool, "-6nc")
		cmd.Stdin = bytes.NewReader(data)
		theirs, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if z := packed(t, data, len(data)); len(z) > len(theirs) {
			t.Errorf("%s: %d bytes, and gzip -6 makes %d", name, len(z), len(theirs))
		}
	}
}

// failing is a writer that takes some bytes, and then no more.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestGzipFails holds that the writer's error comes out, and that the end ends.
func TestGzipFails(t *testing.T) {
	noise := inputs()["noise"]
	for _, room := range []int{0, 5, 20, 1 << 20, 3<<20 + 100} {
		w, end, err := Writer(&failing{room}, Gzip)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err = w.Write(noise); err != nil {
				break
			}
		}
		if err != nil && !errors.Is(err, errFull) {
			t.Errorf("room for %d: %v", room, err)
		}
		for range 2 {
			if err := end(); !errors.Is(err, errFull) {
				t.Errorf("room for %d: the end says %v", room, err)
			}
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("it takes more after its end")
		}
	}
}

// FuzzGzip packs and unpacks anything.
func FuzzGzip(f *testing.F) {
	for _, s := range []string{"", "a", "abcabcabcabc", strings.Repeat("x", 1000), "to be or not to be, that is to be"} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, dictionary uint16) {
		from := min(int(dictionary), len(data))
		var d deflater
		z := append(d.compress(nil, data, from), emptyLastBlock...)
		got, err := inflate(z, data[:from])
		if err != nil || !bytes.Equal(got, data[from:]) {
			t.Fatalf("%d bytes of %d: %v", len(got), len(data)-from, err)
		}
		again := append(d.compress(nil, data, from), emptyLastBlock...)
		if !bytes.Equal(again, z) {
			t.Error("a second time, other bytes come out")
		}
	})
}

func inflate(z, dictionary []byte) ([]byte, error) {
	return io.ReadAll(flate.NewReaderDict(bytes.NewReader(z), dictionary))
}
