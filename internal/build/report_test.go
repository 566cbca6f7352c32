package build

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
)

func TestSkipped(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // how what was done instead begins
	}{
		{"postinst", "#!/bin/sh\n# adduser is not called\nif which update-alternatives; then /usr/sbin/update-alternatives --install x; fi\n", []string{"alternatives:"}},
		{"postinst", "#!/bin/sh\nadduser --system x || true\n\t`ldconfig`\n", []string{"accounts:", "libraries:"}},
		{"postinst", "#!/bin/sh\necho adduserx my-ldconfig\n", []string{notDone}},
		{"config", "#!/bin/sh\n. /usr/share/debconf/confmodule\n", []string{"questions:"}},
		{"prerm", "#!/bin/sh\npy3clean x\n", []string{atRemoval}},
		{"triggers", "activate-noawait ldconfig\n", []string{"libraries:"}},
		{"triggers", "interest-noawait /usr/share/icons\n", []string{notReplied}},
	} {
		got := skipped(debian.Script{Package: "x:all=1", Name: c.name, Text: c.text})
		if !slices.EqualFunc(got.Instead, c.want, strings.HasPrefix) {
			t.Errorf("%s %q gave %q, want %q", c.name, c.text, got.Instead, c.want)
		}
	}
}

// TestReport makes an image of real packages and asks what was skipped: at
// once, from the store, and when the store has lost it.
func TestReport(t *testing.T) {
	client, _ := machinetest.Archive(t)
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	b := Builder{Store: st, Client: client, Dir: t.TempDir(), Now: time.Now, Events: event.Func(func(e event.Event) {
		if e.Kind == event.Note {
			said = append(said, e.Message)
		}
	})}
	img := &lab.Image{Name: "base", Release: "trixie", Arch: "amd64", Packages: []string{"tcpdump", "python3-minimal"}, Deps: rootfs.DepsELF}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	image := func() *Artifact {
		a, err := b.Image(ctx, img, Format{Name: "cpio", Compression: "none"})
		if err != nil {
			t.Fatal(err)
		}
		a.Release()
		return a
	}
	a := image()
	if a.Cached || len(said) != 2 || !strings.Contains(said[0], "tcpdump (postinst, preinst)") {
		t.Errorf("cached %t, said %q", a.Cached, said)
	}
	// Python without its own modules used to go without a word.
	if left := "image base: deps: elf leaves out what its packages depend on (libpython3.13-minimal, for python3-minimal); deps: packages, or --deps packages, has it"; said[len(said)-1] != left {
		t.Errorf("said %q, want %q", said, left)
	}
	want := fmt.Sprintf("%+v", *b.Kept(a))
	if a = image(); !a.Cached || len(said) != 2 || fmt.Sprintf("%+v", *b.Kept(a)) != want {
		t.Errorf("the second time: cached %t, said %q, %+v", a.Cached, said, b.Kept(a))
	}
	st.Remove(kindReport, a.report)
	if b.Kept(a) != nil {
		t.Error("the report is there although it was removed")
	}
	r, err := b.Report(ctx, img)
	if err != nil || fmt.Sprintf("%+v", *r) != want {
		t.Errorf("made again: %+v, %v", r, err)
	}
	names := map[string]bool{}
	for _, s := range r.Scripts {
		names[s.Name] = true
		if len(s.Instead) == 0 {
			t.Errorf("%+v says nothing", s)
		}
	}
	for _, n := range []string{"preinst", "postinst", "postrm", "triggers"} {
		if !names[n] {
			t.Errorf("no %s in %+v", n, r.Scripts)
		}
	}
}
