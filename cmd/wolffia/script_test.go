package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScript runs the scripts in testdata/script. Beside testscript's own
// commands they have
//
//	exits STATUS wolffia [ARG]...
//	json stdout|stderr
//
// The first runs wolffia as an ordinary user and wants exactly that status;
// the second wants what was written last to be JSON values.
func TestScript(t *testing.T) {
	p := newPerson(t)
	work := p.folder(t, "scripts")
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		WorkdirRoot:         work,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(6 * time.Minute),
		Setup: func(e *testscript.Env) error {
			for _, name := range passedOn {
				if v, ok := os.LookupEnv(name); ok {
					e.Setenv(name, v)
				}
			}
			e.Setenv("HOME", p.home)
			e.Setenv("TMPDIR", p.tmp)
			e.Setenv("WOLFFIA_CACHE", p.cache)
			if os.Getuid() != 0 {
				return nil
			}
			return filepath.WalkDir(e.WorkDir, func(path string, _ os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return os.Lchown(path, p.uid, p.uid)
			})
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits(p), "json": isJSON},
	})
}

func exits(p *person) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 || args[1] != "wolffia" {
			ts.Fatalf("usage: exits STATUS wolffia [ARG]...")
		}
		want, err := strconv.Atoi(args[0])
		ts.Check(err)
		bin, err := program()
		ts.Check(err)
		argv := append([]string{"timeout", "--signal=ABRT", "60", bin}, args[2:]...)
		if os.Getuid() == 0 {
			id := strconv.Itoa(p.uid)
			argv = append([]string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--"}, argv...)
		}
		got := 0
		var exit *exec.ExitError
		switch err := ts.Exec(argv[0], argv[1:]...); {
		case errors.As(err, &exit):
			got = exit.ExitCode()
		case err != nil:
			ts.Fatalf("%v", err)
		}
		if got != want {
			ts.Fatalf("status %d, want %d", got, want)
		}
	}
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: json stdout|stderr")
	}
	d := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	for n := 0; ; n++ {
		var v any
		err := d.Decode(&v)
		if err == io.EOF && n > 0 {
			return
		}
		if err != nil {
			ts.Fatalf("value %d of %s is no JSON: %v", n+1, args[0], err)
		}
	}
}
