package grub

import (
	"slices"
	"strings"
	"testing"
)

// FuzzKernel: whatever kernel.img holds, what is taken from it is a part of it.
func FuzzKernel(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		loaded, err := loadKernel(b)
		if err == nil && !strings.Contains(string(b), string(loaded)) {
			t.Errorf("%d bytes that are not in the file", len(loaded))
		}
	})
}

// FuzzDependencies: whatever moddep.lst says, a closure ends, and has each
// module once, after what it needs.
func FuzzDependencies(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		needs, err := parseDependencies(text)
		if err != nil {
			return
		}
		c := &closer{needs: needs, state: map[string]int{}}
		for name := range needs {
			if c.add(name, "") != nil {
				return
			}
		}
		for i, name := range c.order {
			if slices.Index(c.order, name) != i {
				t.Errorf("%q comes twice", name)
			}
			for _, n := range needs[name] {
				if at := slices.Index(c.order, n); at < 0 || at > i {
					t.Errorf("%q comes before %q, which it needs", name, n)
				}
			}
		}
	})
}

// FuzzArguments: what is split off holds nothing that would end a line or a
// quoted word of the menu, and no argument is lost.
func FuzzArguments(f *testing.F) {
	f.Fuzz(func(t *testing.T, cmdline string) {
		words, err := arguments(cmdline)
		if err != nil {
			return
		}
		for _, w := range words {
			if strings.ContainsAny(w, "\n'\"\\") {
				t.Errorf("argument %q", w)
			}
		}
		if strings.Trim(cmdline, ` "`) != "" && len(words) == 0 {
			t.Errorf("no arguments of %q", cmdline)
		}
		again, err := arguments(strings.Join(words, " "))
		if err != nil || !strings.Contains(cmdline, `"`) && !slices.Equal(again, words) {
			t.Errorf("%q became %q, %v", words, again, err)
		}
	})
}
