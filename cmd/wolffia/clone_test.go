package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// TestFreshClone is the README's first command, typed by an ordinary user in a
// fresh clone, with nothing cached: no module, no object file, no package.
func TestFreshClone(t *testing.T) {
	t.Parallel()
	git, goTool := tooltest.Require(t, "git", "git"), tooltest.Require(t, "go", "golang-go")
	p := newcomer(t)
	root, err := exec.Command(git, "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(p.home, "wolffia")
	// Not linked to the original, whose files would change hands below.
	if out, err := exec.Command(git, "clone", "--quiet", "--local", "--no-hardlinks", strings.TrimSpace(string(root)), clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	err = filepath.WalkDir(clone, func(path string, _ os.DirEntry, err error) error {
		if err != nil || os.Getuid() != 0 {
			return err
		}
		return os.Lchown(path, p.uid, p.uid)
	})
	if err != nil {
		t.Fatal(err)
	}
	c := call{dir: clone, program: goTool, limit: 10 * time.Minute}
	// Where Go gets modules from is the host's business, like its mirror.
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE", "GOFLAGS", "GOTOOLCHAIN"} {
		value, err := exec.Command(goTool, "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		c.env = append(c.env, name+"="+string(bytes.TrimSpace(value)))
	}
	readme, err := os.ReadFile(filepath.Join(clone, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(readme, []byte("go run ./cmd/wolffia run")) {
		t.Error("the README has another first command")
	}
	o := p.run(t, c, "run", "./cmd/wolffia", "run", "--", "uname", "-a")
	if !regexp.MustCompile(`^Linux wolffia \d+\.\d+\.\S* .* x86_64 GNU/Linux\n$`).MatchString(o.out) {
		t.Error(o)
	}
}
