package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

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
// makes up the default lab.
func readLab(env Env, flag string) (*labFile, error) {
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

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, err
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
