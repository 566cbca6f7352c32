package grub_test

import (
	"fmt"
	"strings"
	"testing"

	"wolffia/internal/image/grub"
)

func TestMenu(t *testing.T) {
	got, err := grub.Menu{Timeout: 5, Entries: []grub.Entry{
		{Title: "Debian", Kernel: "/boot/vmlinuz", Initrd: []string{"/boot/base", "/boot/my modules"}, Cmdline: `root=UUID=1-2  quiet x="a b" y=$z`},
		{Title: "it's plain", Kernel: "/k"},
	}}.Text()
	must(t, err)
	want := `set default=0
set timeout=5
menuentry Debian {
	linux /boot/vmlinuz root=UUID=1-2 quiet 'x=a b' 'y=$z'
	initrd /boot/base '/boot/my modules'
}
menuentry 'it'\''s plain' {
	linux /k
}
`
	if got != want {
		t.Errorf("menu\n%s, not\n%s", got, want)
	}
}

func TestMenuRefused(t *testing.T) {
	ok := grub.Entry{Title: "x", Kernel: "/k"}
	for _, c := range []struct {
		change func(m *grub.Menu, e *grub.Entry)
		want   string
	}{
		{func(m *grub.Menu, e *grub.Entry) { m.Entries = nil }, "no entries"},
		{func(m *grub.Menu, e *grub.Entry) { m.Timeout = -1 }, "a timeout of -1 seconds"},
		{func(m *grub.Menu, e *grub.Entry) { e.Title = "" }, "no title"},
		{func(m *grub.Menu, e *grub.Entry) { e.Title = "a\nb" }, "control character"},
		{func(m *grub.Menu, e *grub.Entry) { e.Kernel = "vmlinuz" }, "slash"},
		{func(m *grub.Menu, e *grub.Entry) { e.Initrd = []string{""} }, "slash"},
		{func(m *grub.Menu, e *grub.Entry) { e.Cmdline = "a\nb" }, "can't be passed"},
		{func(m *grub.Menu, e *grub.Entry) { e.Cmdline = `a\b` }, `'\\' can't be passed`},
		{func(m *grub.Menu, e *grub.Entry) { e.Cmdline = "it's" }, "can't be passed"},
		{func(m *grub.Menu, e *grub.Entry) { e.Cmdline = `a="b` }, "without its other"},
	} {
		m := grub.Menu{Entries: []grub.Entry{ok}}
		e := &m.Entries[0]
		c.change(&m, e)
		if _, err := m.Text(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, not %q", err, c.want)
		}
	}
}

func ExampleMenu_Text() {
	text, err := grub.Menu{Entries: []grub.Entry{{
		Title: "Debian 13", Kernel: "/boot/vmlinuz", Initrd: []string{"/boot/initrd"}, Cmdline: "root=PARTLABEL=root quiet",
	}}}.Text()
	if err != nil {
		fmt.Println(err)
	}
	fmt.Print(text)
	// Output:
	// set default=0
	// set timeout=0
	// menuentry 'Debian 13' {
	// 	linux /boot/vmlinuz root=PARTLABEL=root quiet
	// 	initrd /boot/initrd
	// }
}
