package ext4

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"wolffia/internal/tree"
)

// lying is a content that fails, or is shorter than it says.
type lying struct {
	size int64
	open error
	data string
}

func (l lying) Size() int64 { return l.size }
func (l lying) Open() (io.ReadCloser, error) {
	if l.open != nil {
		return nil, l.open
	}
	return io.NopCloser(strings.NewReader(l.data)), nil
}

// full is a disk that takes so many bytes.
type full struct{ left int64 }

var errFull = errors.New("no space left on device")

func (f *full) WriteAt(p []byte, off int64) (int, error) {
	if f.left -= int64(len(p)); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestFailures fails in the middle of many files and leaves nothing running.
func TestFailures(t *testing.T) {
	around := func(c tree.Content) *tree.Tree {
		tr := tree.New()
		for i := range 300 {
			must(t, tr.Put(fmt.Sprintf("/file%03d", i), tree.File(0o644, tree.Bytes(strings.Repeat("x", 1+i*300)))))
		}
		must(t, tr.Put("/large", tree.File(0o644, tree.Bytes(strings.Repeat("large", 1<<20)))))
		must(t, tr.Put("/file150a", tree.File(0o644, c)))
		return tr
	}
	err := Write(&memory{}, around(lying{size: 100_000, data: "short"}), Options{})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), `"/file150a": content ends 99995 bytes before its size of 100000`) {
		t.Errorf("short: %v", err)
	}
	sad := errors.New("the file is gone")
	if err := Write(&memory{}, around(lying{size: 5 << 20, open: sad}), Options{}); !errors.Is(err, sad) || !strings.Contains(err.Error(), "/file150a") {
		t.Errorf("gone: %v", err)
	}
	if err := Write(&memory{}, around(lying{size: 3, data: "long enough"}), Options{}); err != nil {
		t.Errorf("longer than its size: %v", err)
	}
	for _, left := range []int64{0, 1000, 5 << 20, 15 << 20} {
		if err := Write(&full{left}, around(tree.Bytes("x")), Options{}); !errors.Is(err, errFull) {
			t.Errorf("full after %d bytes: %v", left, err)
		}
	}
}
