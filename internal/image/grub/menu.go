package grub

import (
	"errors"
	"fmt"
	"strings"
)

// Menu is what GRUB offers, or starts at once.
type Menu struct {
	// Entries are what can be started; the first is it unless one is chosen.
	Entries []Entry
	// Timeout is for how many seconds the menu waits for a choice; with 0 it is
	// not shown.
	Timeout int
}

// Entry starts a kernel.
type Entry struct {
	Title string
	// Kernel and Initrd are paths on the menu's partition; the archives of the
	// initial RAM disk are joined in their order.
	Kernel string
	Initrd []string
	// Cmdline is the kernel's command line. Arguments with spaces are in double
	// quotes.
	Cmdline string
}

// Text is the menu as GRUB reads it, for [MenuPath].
func (m Menu) Text() (string, error) {
	if len(m.Entries) == 0 {
		return "", errors.New("write GRUB's menu: no entries")
	}
	if m.Timeout < 0 {
		return "", fmt.Errorf("write GRUB's menu: a timeout of %d seconds", m.Timeout)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "set default=0\nset timeout=%d\n", m.Timeout)
	for _, e := range m.Entries {
		if err := e.write(&b); err != nil {
			return "", fmt.Errorf("write GRUB's menu: entry %.60q: %w", e.Title, err)
		}
	}
	return b.String(), nil
}

func (e Entry) write(b *strings.Builder) error {
	words, err := arguments(e.Cmdline)
	if err != nil {
		return err
	}
	if e.Title == "" {
		return errors.New("no title")
	}
	for _, s := range append([]string{e.Title, e.Kernel}, e.Initrd...) {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("%.60q holds a control character", s)
		}
	}
	for _, p := range append([]string{e.Kernel}, e.Initrd...) {
		if !strings.HasPrefix(p, "/") {
			return fmt.Errorf("path %.60q does not begin with a slash", p)
		}
	}
	fmt.Fprintf(b, "menuentry %s {\n\tlinux %s", quote(e.Title), quote(e.Kernel))
	for _, w := range words {
		b.WriteString(" " + quote(w))
	}
	b.WriteString("\n")
	if len(e.Initrd) > 0 {
		b.WriteString("\tinitrd")
		for _, p := range e.Initrd {
			b.WriteString(" " + quote(p))
		}
		b.WriteString("\n")
	}
	b.WriteString("}\n")
	return nil
}

// quote makes one argument of s, in GRUB's language.
func quote(s string) string {
	if s != "" && plain(s, "/-_.,:=+@%") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// arguments splits a kernel's command line as the kernel does, and takes the
// double quotes away: GRUB puts them around what has spaces.
func arguments(cmdline string) ([]string, error) {
	if i := strings.IndexFunc(cmdline, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\'' || r == '\\' }); i >= 0 {
		return nil, fmt.Errorf("command line: %q can't be passed through GRUB", cmdline[i])
	}
	var words []string
	var word strings.Builder
	inside, quoted := false, false
	for _, r := range cmdline {
		switch {
		case r == '"':
			quoted, inside = !quoted, true
		case r == ' ' && !quoted:
			if inside {
				words = append(words, word.String())
			}
			word.Reset()
			inside = false
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if quoted {
		return nil, errors.New("command line: a double quote without its other")
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}
