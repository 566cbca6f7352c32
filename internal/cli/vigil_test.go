package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVigil has a machine hang at several moments, and somebody who wants out:
// a machine that answers gets the interrupt, one that hangs loses the command.
func TestVigil(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps string // a look each: 0 to 9 in vain; i an interrupt, k a Ctrl-C among keys
		left  int    // before which step it is left; -1 for never
		said  bool
	}{
		{"answers", "0i0k0", -1, false},
		{"interrupted while it hangs", "012i", 4, false},
		{"a key after it is said", "01234k", 6, true},
		{"interrupted, and answers before it hangs", "i0012", -1, false},
		{"interrupted when it hangs already", "0k12", 4, false},
		{"a signal after it is said", "01234i", 6, true},
		{"a key before it is said", "0123k", 5, false},
		{"interrupted, and hangs again later", "01i0123", -1, false},
		{"is waited for", "0123456789", -1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer stderr.Close()
			v := &vigil{env: Env{Stderr: stderr}, machine: "anna"}
			left, step := -1, 0
			done := v.during(func() {
				if left < 0 {
					left = step
				}
			})
			for i, s := range c.steps {
				step = i + 1
				switch s {
				case 'i':
					v.interrupt()
				case 'k':
					if got, err := io.ReadAll(&keys{strings.NewReader("ls\x03"), v}); string(got) != "ls\x03" || err != nil {
						t.Errorf("read %q, %v", got, err)
					}
				default:
					v.look(int(s - '0'))
				}
			}
			done()
			v.interrupt() // of nothing
			said, err := os.ReadFile(stderr.Name())
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			if c.said {
				want = "wolffia: machine anna has not answered for 4s; waiting for it, up to 1m0s; Ctrl-C ends that\n"
			}
			if left != c.left || string(said) != want {
				t.Errorf("left at step %d, want %d; said %q", left, c.left, said)
			}
		})
	}
}
