// Package importer turns labs that were written for other programs into a
// wolffia.yaml: a folder of Kathará or netkit (lab.conf, NAME.startup, folders
// of files), and a topology of containerlab (NAME.clab.yml) whose nodes are of
// kind linux.
//
//	lab, err := importer.Import(os.DirFS("lab"), "lab.conf", importer.Options{Dir: "lab", From: "."})
//	os.WriteFile("lab/wolffia.yaml", lab.File, 0o666)
//
// What a lab says of its topology becomes networks and machines of the file.
// What it does inside of a machine (startup files, folders laid over the root,
// commands, variables) becomes a service of the image, a shell script that the
// file shows: all of a lab's own files lie in the image under /hostlab, and at
// boot each machine takes those that bear its name. So machines that start
// from the same thing share one image, which is built once.
//
// Everything that has no counterpart is a [Warning] with its file and line;
// nothing is dropped in silence. What [Import] gives is read once more by
// [lab.Parse], so that it is never a file that wolffia would refuse.
//
// Deliberately absent: nodes of containerlab that are no plain Linux, its
// templates (.gotmpl), and the values of environment variables, which would
// make the result depend on who imports it.
//
// The formats are described by kathara-lab.conf(5), kathara-lab-dirs(7) and
// kathara-lab.dep(5), and at https://containerlab.dev/manual/topo-def-file/ and
// https://containerlab.dev/manual/nodes/.
package importer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"wolffia/internal/lab"
)

// Options say how a lab is imported.
type Options struct {
	Dir  string // the lab's folder, as messages call it
	Name string // of a lab that does not say its own
	From string // the lab's folder as seen from wolffia.yaml, such as "." or "../lab"; empty means "."
	Home string // the person's home, which ~ stands for; empty leaves out what begins with it
	// Debian puts packages in the place of all container images, so that no
	// registry is needed.
	Debian bool
}

// Kind says what a lab was written for.
type Kind string

// The kinds.
const (
	Kathara      Kind = "kathara" // or netkit
	Containerlab Kind = "containerlab"
)

// Result is an imported lab.
type Result struct {
	Kind     Kind
	File     []byte    // the text of a wolffia.yaml
	Spec     *lab.Spec // what lab.Parse reads of it
	Warnings []Warning // sorted by file and line
}

// Warning is something that could not be carried over, or only changed.
type Warning struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 is the whole file
	Text string `json:"text"`
}

func (w Warning) String() string {
	if w.Line == 0 {
		return fmt.Sprintf("%s: %s", w.File, w.Text)
	}
	return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Text)
}

// Limits of what is read.
const (
	maxFile     = 1 << 20 // bytes of a lab.conf, a topology or a startup file
	maxMachines = 1000
	maxWarnings = 1000
)

// confName is the file that makes a folder a lab of Kathará's.
const confName = "lab.conf"

// A NotFoundError says that a folder holds no lab, or several.
type NotFoundError struct {
	Dir   string
	Found []string // the names of topologies to choose from
}

func (e *NotFoundError) Error() string {
	if len(e.Found) > 0 {
		return fmt.Sprintf("%s holds several topologies; name one: %s", e.Dir, strings.Join(e.Found, ", "))
	}
	return fmt.Sprintf("%s holds neither a %s of Kathará's nor a topology of containerlab's (NAME.clab.yml)", e.Dir, confName)
}

// Find gives the name of the file in a lab's folder that [Import] starts from.
// dir is how messages call the folder.
func Find(fsys fs.FS, dir string) (string, error) {
	if _, err := fs.Stat(fsys, confName); err == nil {
		return confName, nil
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return "", fmt.Errorf("look for a lab in %s: %w", dir, err)
	}
	var found []string
	for _, e := range entries {
		if isTopology(e.Name()) && !e.IsDir() {
			found = append(found, e.Name())
		}
	}
	if len(found) != 1 {
		return "", &NotFoundError{dir, found}
	}
	return found[0], nil
}

func isTopology(name string) bool {
	return strings.HasSuffix(name, ".clab.yml") || strings.HasSuffix(name, ".clab.yaml")
}

// Import reads the lab that the file name in fsys describes: lab.conf, or a
// topology. Mistakes in it are [lab.Errors].
func Import(fsys fs.FS, name string, o Options) (*Result, error) {
	if o.From == "" {
		o.From = "."
	}
	r := &reader{fsys: fsys, o: o}
	out := &Result{Kind: Kathara}
	read := r.kathara
	if path.Base(name) != confName {
		out.Kind, read = Containerlab, r.containerlab
	}
	t := read(name)
	if len(r.errs) == 0 && t != nil {
		t.check(r)
	}
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	t.plan(r)
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	out.File = t.write()
	var err error
	if out.Spec, err = lab.Parse("wolffia.yaml", out.File); err != nil {
		if len(out.File) > lab.MaxFile {
			r.fail(name, 0, "the lab is too large: its wolffia.yaml would have %d bytes, and may have %d", len(out.File), lab.MaxFile)
			return nil, r.errs
		}
		return nil, &selfError{err}
	}
	out.Warnings = r.warnings
	slices.SortStableFunc(out.Warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return out, nil
}

// selfError is a mistake of this package.
type selfError struct{ err error }

func (e *selfError) Error() string {
	return fmt.Sprintf("the imported lab would be refused, which is a mistake of wolffia's: %v", e.err)
}

func (e *selfError) Unwrap() error { return e.err }

// reader collects what is said of a lab while it is read.
type reader struct {
	fsys     fs.FS
	o        Options
	errs     lab.Errors
	warnings []Warning
}

// shown is how messages call a file of the lab.
func (r *reader) shown(name string) string { return path.Join(r.o.Dir, name) }

func (r *reader) fail(file string, line int, format string, args ...any) {
	if len(r.errs) < 50 {
		r.errs = append(r.errs, &lab.Error{File: r.shown(file), Line: max(line, 1), Column: 1, Reason: fmt.Sprintf(format, args...)})
	}
}

func (r *reader) warn(file string, line int, format string, args ...any) {
	w := Warning{r.shown(file), line, fmt.Sprintf(format, args...)}
	switch {
	case len(r.warnings) == maxWarnings, slices.Contains(r.warnings, w): // once is enough for what several machines have in common
		return
	case len(r.warnings) == maxWarnings-1:
		w.Text = "there is more that can't be carried over"
	}
	r.warnings = append(r.warnings, w)
}

// read gives a file of the lab; ok is false where there is none. Anything else
// is a mistake.
func (r *reader) read(name string) (text string, ok bool) {
	f, err := r.fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
		f.Close()
	}
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		r.fail(name, 0, "read the file: %v", err)
		return "", false
	}
	return strings.TrimPrefix(string(data), "\ufeff"), true
}

// exists reports whether the lab has a file or folder of that name.
func (r *reader) exists(name string) (info fs.FileInfo, ok bool) {
	if !fs.ValidPath(name) {
		return nil, false
	}
	info, err := fs.Stat(r.fsys, name)
	return info, err == nil
}

// host is the path of a file of the lab as wolffia.yaml writes it.
func (r *reader) host(name string) string {
	p := path.Join(r.o.From, name)
	if !path.IsAbs(p) && !strings.HasPrefix(p, "../") && p != ".." {
		p = "./" + p
	}
	return p
}
