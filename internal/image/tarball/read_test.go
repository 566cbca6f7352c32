package tarball

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wolffia/internal/tree"
)

func TestReadAtGNU(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a"), []byte("hello"), 0o640)
	os.Mkdir(filepath.Join(dir, "d"), 0o750)
	os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/b"))
	os.Symlink("../a", filepath.Join(dir, "d/s"))
	out := filepath.Join(t.TempDir(), "x.tar")
	if b, err := exec.Command("tar", "-C", dir, "-cf", out, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, b)
	}
	st, _ := os.Stat(out)
	tr, err := ReadAt(func() (tree.ReaderAtCloser, error) { return os.Open(out) }, st.Size(), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := tr.ReadFile("/d/s", 100)
	if err != nil || string(b) != "hello" {
		t.Fatal(string(b), err)
	}
	if tr.Get("/a") != tr.Get("/d/b") || tr.Get("/a").Mode != tree.TypeRegular|0o640 {
		t.Fatal("link")
	}
}
