package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"wolffia/internal/debian"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
	"wolffia/internal/store"
)

// kindReport is what was noted while an image was made.
const kindReport = "report"

// maxReport bounds what is read of one, in bytes.
const maxReport = 16 << 20

// Report is what a person may want to know of how an image was made. It is
// kept in the store beside the image.
type Report struct {
	Scripts []Skipped `json:"scripts,omitempty"` // maintainer scripts, none of which was run
	Missing []string  `json:"missing,omitempty"` // "PATH needs WHAT": what no package of the image has
	Applets int       `json:"applets"`           // links to busybox that were made
	Pruned  int       `json:"pruned,omitempty"`  // files of dependencies that were left out
	LeftOut []string  `json:"leftOut,omitempty"` // "NAME, for WANTED": dependencies of which nothing was kept
}

// Skipped is one maintainer script, or the list of triggers, of a package.
type Skipped struct {
	Package string   `json:"package"` // name:arch=version
	Name    string   `json:"name"`    // preinst, postinst, prerm, postrm, config or triggers
	Instead []string `json:"instead"` // what became of the tasks that were recognised in it
}

// installScripts are what installing a package runs; the others are for its
// removal, and triggers name files, not programs.
var installScripts = []string{"preinst", "postinst", "config"}

// Words for what stands for no command in particular.
const (
	atRemoval  = "it is for removing the package, or for the next version"
	notDone    = "nothing was done in its stead"
	notReplied = "what other packages would make it do is not done"
)

// tasks are what maintainer scripts do by commands that are known, and what is
// done in an image in their stead.
var tasks = []struct {
	commands string // separated by spaces
	instead  string
}{
	{"adduser useradd addgroup groupadd usermod update-passwd systemd-sysusers", "accounts: /etc/passwd has those that the recipe names, besides Debian's first"},
	{"ldconfig", "libraries: /etc/ld.so.cache was written if any lies where it is needed"},
	{"update-ca-certificates", "certificates: /etc/ssl/certs/ca-certificates.crt was written"},
	{"update-initramfs", "initramfs: wolffia makes its own"},
	{"depmod", "modules: their dependencies are found when a machine is made"},
	{"update-rc.d invoke-rc.d service", "services: /init starts those that the recipe names"},
	{"deb-systemd-helper deb-systemd-invoke systemctl", "services: there is no systemd"},
	{"update-alternatives", "alternatives: none were set; a link under files does it"},
	{"confmodule db_input db_get debconf", "questions: none was asked, and no answer is kept"},
	{"dpkg-maintscript-helper dpkg-divert", "older versions: there is none to move away"},
	{"py3compile pycompile", "Python: modules are compiled when they are first used"},
	{"setcap", "capabilities: no program got any"},
	{"dpkg-statoverride chown chmod chgrp", "permissions: files have those of the package"},
	{"add-shell", "shells: /etc/shells names the usual ones"},
	{"update-mime-database update-desktop-database gtk-update-icon-cache fc-cache install-info mandb", "caches: none was made"},
}

// skipped describes a script that was not run.
func skipped(s debian.Script) Skipped {
	out := Skipped{Package: s.Package, Name: s.Name}
	said := words(s.Text)
	for _, t := range tasks {
		if slices.ContainsFunc(strings.Fields(t.commands), func(c string) bool { return said[c] }) {
			out.Instead = append(out.Instead, t.instead)
		}
	}
	switch {
	case s.Name == "prerm" || s.Name == "postrm":
		out.Instead = []string{atRemoval}
	case s.Name == "triggers" && (said["interest"] || said["interest-noawait"] || said["interest-await"]):
		out.Instead = append(out.Instead, notReplied)
	case len(out.Instead) == 0:
		out.Instead = []string{notDone}
	}
	return out
}

// words are the words of a script, of paths only the last part.
func words(script string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, w := range strings.FieldsFunc(line, func(r rune) bool { return r <= ' ' || strings.ContainsRune(";&|()`\"'$!{}", r) }) {
			out[path.Base(w)] = true
		}
	}
	return out
}

func newReport(u *debian.Unpacked, r *rootfs.Report) *Report {
	out := &Report{Missing: r.Missing, Applets: len(r.Applets), Pruned: r.Pruned}
	if u == nil { // no packages besides the tools
		return out
	}
	for _, s := range u.Scripts {
		out.Scripts = append(out.Scripts, skipped(s))
	}
	return out
}

// Installing names the scripts that installing the packages would have run, as
// "PACKAGE (SCRIPT, ...)".
func (r *Report) Installing() []string {
	var order []string
	by := map[string][]string{}
	for _, s := range r.Scripts {
		if !slices.Contains(installScripts, s.Name) {
			continue
		}
		name, _, _ := strings.Cut(s.Package, ":")
		if by[name] == nil {
			order = append(order, name)
		}
		by[name] = append(by[name], s.Name)
	}
	for i, p := range order {
		order[i] = fmt.Sprintf("%s (%s)", p, strings.Join(by[p], ", "))
	}
	return order
}

// maxLeftOut is how many of Report.LeftOut are told.
const maxLeftOut = 3

// Tell reports in short what a person may want to know about an image.
func (b *Builder) Tell(img *lab.Image, r *Report) {
	emit := func(kind event.Kind, format string, args ...any) {
		event.Or(b.Events).Emit(event.Event{Kind: kind, Task: "make image", Subject: img.Name, Message: fmt.Sprintf(format, args...)})
	}
	if scripts := r.Installing(); len(scripts) > 0 {
		emit(event.Note, "image %s: maintainer scripts that were not run: %s; see wolffia explain image", img.Name, strings.Join(scripts, ", "))
	}
	for _, m := range together(r.Missing) {
		emit(event.Warn, "image %s: %s, which no package of it has", img.Name, m)
	}
	if n := len(r.LeftOut); n > 0 {
		names := strings.Join(r.LeftOut[:min(n, maxLeftOut)], "; ")
		if n > maxLeftOut {
			names += fmt.Sprintf("; and %d more", n-maxLeftOut)
		}
		emit(event.Note, "image %s: deps: elf leaves out what its packages depend on (%s); deps: packages, or --deps packages, has it", img.Name, names)
	}
}

// together names what several programs lack once, with the first of them.
func together(missing []string) []string {
	var order []string
	by := map[string][]string{}
	for _, m := range missing {
		who, what, ok := strings.Cut(m, " needs ")
		if !ok {
			order = append(order, m)
			continue
		}
		if by[what] == nil {
			order = append(order, what)
		}
		by[what] = append(by[what], who)
	}
	for i, what := range order {
		switch who := by[what]; {
		case len(who) == 1:
			order[i] = who[0] + " needs " + what
		case len(who) > 1:
			order[i] = fmt.Sprintf("%s and %d more programs need %s", who[0], len(who)-1, what)
		}
	}
	return order
}

// Report gives the report on an image, out of the store, or by making the image
// once more, without writing it.
func (b *Builder) Report(ctx context.Context, img *lab.Image) (*Report, error) {
	d, err := b.describe(ctx, img)
	if err != nil {
		return nil, err
	}
	if r := b.storedReport(d.key("")); r != nil {
		return r, nil
	}
	t, err := b.tree(ctx, img, d)
	if err != nil {
		return nil, err
	}
	t.close()
	return t.report, nil
}

// Kept gives the report on an image that was in the store already, or nil.
func (b *Builder) Kept(a *Artifact) *Report { return b.storedReport(a.report) }

func (b *Builder) storedReport(key string) *Report {
	f, ok := b.Store.Open(kindReport, key)
	if !ok {
		return nil
	}
	defer f.Close()
	var r Report
	if err := json.NewDecoder(io.LimitReader(f, maxReport)).Decode(&r); err != nil {
		return nil // it is made again
	}
	return &r
}

// keepReport puts a report into the store. A store that can't be written to
// does without.
func (b *Builder) keepReport(ctx context.Context, key string, r *Report) error {
	_, err := b.Store.Replace(ctx, kindReport, key, func(f *os.File) error {
		return json.NewEncoder(f).Encode(r)
	})
	var readOnly *store.ReadOnlyError
	if errors.As(err, &readOnly) {
		return nil
	}
	return err
}
