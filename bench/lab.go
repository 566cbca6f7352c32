package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"wolffia/internal/api"
)

// labProcess is a lab in the background, in a folder of its own, with a state of
// its own beside the person's.
type labProcess struct {
	b     *bench
	dir   string
	state string
}

// newLab writes a lab's file into a folder.
func (b *bench) newLab(name, file string) (*labProcess, error) {
	l := &labProcess{b: b, dir: filepath.Join(b.dir, name), state: filepath.Join(b.dir, name+".state")}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, err
	}
	return l, os.WriteFile(filepath.Join(l.dir, "wolffia.yaml"), []byte(file), 0o644)
}

// wolffia is a verb, called where the lab's file is.
func (l *labProcess) wolffia(args ...string) command {
	return command{argv: append([]string{l.b.wolffia}, args...), dir: l.dir, env: []string{"WOLFFIA_STATE=" + l.state}}
}

// dial connects to the lab's supervisor.
func (l *labProcess) dial() (*api.Client, error) {
	sockets, err := filepath.Glob(filepath.Join(l.state, "labs", "*", "api.sock"))
	if err != nil {
		return nil, err
	}
	if len(sockets) != 1 {
		return nil, fmt.Errorf("%d labs have a socket in %s, not one", len(sockets), l.state)
	}
	return api.Dial(sockets[0], "")
}

// downBound is how long a lab may take to end, whatever goes on.
const downBound = time.Minute

// down ends the lab also when everything else is given up, and kills what then
// is left.
func (l *labProcess) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), downBound)
	defer cancel()
	_, err := l.wolffia("down", "--volumes").run(ctx)
	if c, derr := l.dial(); derr == nil {
		defer c.Close()
		info, ierr := c.Info(ctx)
		if p, perr := os.FindProcess(info.PID); ierr == nil && perr == nil {
			err = errors.Join(err, fmt.Errorf("the supervisor, process %d, did not end", info.PID), p.Kill())
		}
	}
	return err
}
