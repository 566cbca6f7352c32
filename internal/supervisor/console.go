package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"wolffia/internal/access"
	"wolffia/internal/machine"
)

// Console is the machine's console. Where the console itself can't tell the
// guest the size of the terminal that shows it, stty does so inside, at our word, or
// as soon as the machine can be entered.
func (s *Guest) Console() machine.Console {
	return &console{Console: s.machine.Console(), guest: s}
}

type console struct {
	machine.Console
	guest *Guest

	mu      sync.Mutex
	size    access.Size // the newest
	telling bool        // a goroutine tells the guest, and looks for a newer one at its end
}

// Resize implements [machine.Console]. It does not wait for the guest.
func (c *console) Resize(cols, rows int) error {
	err := c.Console.Resize(cols, rows)
	if !errors.Is(err, machine.ErrNoResize) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size = access.Size{Cols: cols, Rows: rows}
	if !c.telling {
		c.telling = true
		c.guest.side.Go(c.tell)
	}
	return nil
}

// tell tells until the guest knows the newest size. A guest that can't be told is
// none the worse for it.
func (c *console) tell() {
	to, done, err := c.guest.sizer()
	defer done()
	var told access.Size
	for {
		c.mu.Lock()
		size := c.size
		if size == told || err != nil {
			c.telling = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		err = to(size)
		told = size
	}
}

// sizer is how the guest is told its console's size: over its channel, or by stty in
// it, once it can be entered. done ends that, also after an error.
func (s *Guest) sizer() (to func(access.Size) error, done func(), err error) {
	if s.direct != nil {
		return s.direct.Resize, func() {}, nil
	}
	client, err := s.visit(s.ctx)
	if err != nil {
		return nil, func() {}, err
	}
	tty := s.cfg.Backend.Guest(s.cfg.Arch).Console
	return func(size access.Size) error { return stty(s.ctx, client, tty, size) }, func() { client.Close() }, nil
}

// visit enters the guest once it can be entered. Unlike [Guest.Dial] it leaves
// a machine alone that can't.
func (s *Guest) visit(ctx context.Context) (*access.Client, error) {
	if !s.boot.open(ctx) {
		return nil, errors.New("the machine lets nobody in")
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	return s.enter(ctx)
}

func stty(ctx context.Context, client *access.Client, tty string, size access.Size) error {
	st, err := client.Run(ctx, access.Command{
		Argv:   []string{"stty", "-F", tty, "cols", strconv.Itoa(size.Cols), "rows", strconv.Itoa(size.Rows)},
		Stdout: io.Discard, Stderr: io.Discard,
	})
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("stty: exit status %d", st.Code)
	}
	return err
}
