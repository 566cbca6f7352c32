package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

	"wolffia/internal/event"
	"wolffia/internal/importer"
	"wolffia/internal/term"
)

type importVerb struct {
	out    string
	force  bool
	debian bool
	quiet  bool
	json   bool
}

// importedLab is the result's JSON form.
type importedLab struct {
	Kind     importer.Kind      `json:"kind"`
	Path     string             `json:"path"`
	Machines []string           `json:"machines"`
	Networks []string           `json:"networks"`
	Images   []string           `json:"images"`
	Warnings []importer.Warning `json:"warnings"`
}

func newImport(env Env) *cobra.Command {
	o := &importVerb{}
	cmd := &cobra.Command{
		Use:   "import PATH [-o FILE]",
		Short: "Make a wolffia.yaml of a lab for Kathará, netkit or containerlab",
		Long: `Writes a wolffia.yaml that brings up the same machines and networks as a lab that was
written for another program. PATH is the folder of a Kathará or netkit lab (with
lab.conf, NAME.startup and folders of files), or a topology of containerlab
(NAME.clab.yml), whose nodes of kind linux become machines.

The lab's own files stay where they are; the images are made with them. What has no
counterpart is left out, and a warning says so, with file and line. Container images
are fetched from their registries, unless --debian puts Debian packages in their place:
the usual tools and those that the lab's startup files call.`,
		Example: `  wolffia import ~/labs/rip && wolffia up
  wolffia import clos.clab.yml --debian
  wolffia import . -o - | less`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("wolffia import wants one lab: a folder with a lab.conf, or a NAME.clab.yml")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return o.run(env, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", fileName, "the file to write, or - for standard output")
	f.BoolVar(&o.force, "force", false, "overwrite a file that exists")
	f.BoolVar(&o.debian, "debian", false, "put Debian packages in the place of container images")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but warnings and errors")
	f.BoolVar(&o.json, "json", false, "speak JSON: warnings on standard error, one a line, and the result on standard output")
	cmd.ValidArgsFunction = files("conf", "yml", "yaml")
	return cmd
}

func (o *importVerb) run(env Env, path string) error {
	dir, name := inDir(env.Dir, path), ""
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usagef("%s does not exist", path)
	case err != nil:
		return usagef("read the lab: %w", err)
	case !info.IsDir():
		dir, name = filepath.Split(dir)
		path = filepath.Dir(path)
	}
	lab := os.DirFS(dir)
	if name == "" {
		if name, err = importer.Find(lab, path); err != nil {
			return &usageError{err}
		}
	}
	at := env.Dir // where the paths in the file start
	if o.out != "-" {
		at = filepath.Dir(inDir(env.Dir, o.out))
	}
	from, err := filepath.Rel(at, dir)
	if err != nil {
		from = dir
	}
	r, err := importer.Import(lab, name, importer.Options{
		Dir: path, Name: filepath.Base(dir), From: filepath.ToSlash(from), Home: env.Getenv("HOME"), Debian: o.debian,
	})
	if err != nil {
		return err
	}
	screen := o.renderer(env)
	defer screen.Close()
	for _, w := range r.Warnings {
		screen.Emit(event.Event{Kind: event.Warn, Message: w.String()})
	}
	return o.deliver(env, r)
}

func (o *importVerb) renderer(env Env) *term.Renderer {
	switch {
	case o.json:
		return term.New(env.Stderr, term.JSON)
	case o.quiet:
		return term.New(env.Stderr, term.Quiet)
	case xterm.IsTerminal(int(env.Stderr.Fd())) && env.Getenv("TERM") != "dumb":
		return term.New(env.Stderr, term.Bars)
	}
	return term.New(env.Stderr, term.Lines)
}

// deliver writes the file, and says what is in it.
func (o *importVerb) deliver(env Env, r *importer.Result) error {
	if o.out == "-" {
		if _, err := env.Stdout.Write(r.File); err != nil {
			return fmt.Errorf("write the lab to standard output: %w", err)
		}
		return nil
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if o.force {
		how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(inDir(env.Dir, o.out), how, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s exists already; overwrite it with --force, or name another file with -o", o.out)
	}
	if err != nil {
		return fmt.Errorf("write the lab: %w", err)
	}
	_, err = f.Write(r.File)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the lab: %w", err)
	}
	machines, networks := r.Spec.MachineNames(), r.Spec.NetworkNames()
	if o.json {
		warnings := r.Warnings
		if warnings == nil {
			warnings = []importer.Warning{}
		}
		return writeJSON(env.Stdout, importedLab{r.Kind, o.out, machines, networks, r.Spec.ImageNames(), warnings})
	}
	if o.quiet {
		return nil
	}
	up := "wolffia up"
	if o.out != fileName {
		up += " -f " + o.out
	}
	var out page
	out.printf("wrote %s: %s on %s; try: %s\n", o.out, some(len(machines), "machine"), some(len(networks), "network"), up)
	return out.show(env)
}

// some is a number of things.
func some(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
