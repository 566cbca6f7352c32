package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"wolffia/internal/lab"
)

// fileName is what a lab's file is called unless -f says otherwise.
const fileName = "wolffia.yaml"

// noArgs refuses arguments in one line.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, and was given %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// labFile is a parsed file, or the default lab where there is none.
type labFile struct {
	*lab.Spec
	path  string // absolute; empty for the default lab
	title string // the path as the person gave it
	text  []byte
}

// dir is the folder that the file's relative paths start from.
func (l *labFile) dir(env Env) string {
	if l.path == "" {
		return env.Dir
	}
	return filepath.Dir(l.path)
}

// readLab reads the file named by -f, or the one in the working directory, or
// makes up the default lab. A pipe, standard input included, is no file: what
// belongs to a lab, its lock and what is kept of it, goes by the file's path, and
// the file is read again by those who look for its lab.
func readLab(env Env, flag string) (*labFile, error) {
	if flag == "-" {
		return nil, usagef("-f - would read the lab's file from standard input, which has no place for its lock; write it to a file, and name that")
	}
	name := flag
	if name == "" {
		name = fileName
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(env.Dir, path)
	}
	data, err := readBounded(path, lab.MaxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && flag == "":
		return &labFile{Spec: lab.Default()}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, usagef("%s does not exist; make one with: wolffia init", name)
	case err != nil:
		return nil, usagef("read %s: %w", name, err)
	}
	spec, err := lab.Parse(name, data)
	if err != nil {
		return nil, err
	}
	return &labFile{Spec: spec, path: path, title: name, text: data}, nil
}

// readBounded reads a regular file of at most limit bytes. Whatever else is at
// path, it neither waits for it nor reads it.
func readBounded(path string, limit int64) ([]byte, error) {
	// Asked before, because to open a device may do something to it, and once
	// more of what was opened, because another may have taken its place.
	info, err := os.Stat(path)
	if err == nil {
		err = wantRegular(info)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil {
		err = wantRegular(info)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d bytes; what is long belongs in files that it names", limit)
	}
	return data, err
}

// wantRegular refuses whatever is not a regular file.
func wantRegular(info fs.FileInfo) error {
	what := "not a file"
	switch info.Mode().Type() {
	case 0:
		return nil
	case fs.ModeDir:
		return errors.New("it is a folder; name the file in it with -f")
	case fs.ModeNamedPipe:
		what = "a pipe"
	case fs.ModeSocket:
		what = "a socket"
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		what = "a device"
	}
	return fmt.Errorf("it is %s; write what it would say to a regular file, and name that", what)
}

func newInit(env Env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Write a starter wolffia.yaml",
		Example: "  wolffia init && wolffia run",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			path := filepath.Join(env.Dir, fileName)
			how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
			if force {
				how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
			}
			f, err := os.OpenFile(path, how, 0o666)
			if errors.Is(err, fs.ErrExist) {
				return usagef("%s exists already; overwrite it with --force", fileName)
			}
			if err != nil {
				return fmt.Errorf("write the starter file: %w", err)
			}
			_, err = f.Write(lab.Starter())
			if err = errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("write the starter file: %w", err)
			}
			var out page
			out.printf("wrote %s; try: wolffia run\n", fileName)
			return out.show(env)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite a file that exists")
	return cmd
}

func newSchema(env Env) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of wolffia.yaml, for editors",
		Example: `  wolffia schema > wolffia.schema.json
  # and as the first line of wolffia.yaml:
  # yaml-language-server: $schema=wolffia.schema.json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			var out page
			out.Write(lab.Schema())
			return out.show(env)
		},
	}
}
