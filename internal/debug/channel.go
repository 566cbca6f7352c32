package debug

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"wolffia/internal/access"
)

// Channel is a file of a machine, and what is written to it arrives on the
// host at once: a third stream beside a program's output and error.
type Channel struct {
	Path string // of the file, in the machine

	input *io.PipeWriter
	ended chan struct{}
	err   error // valid after ended
}

// maxNumber bounds the line with a process's number, in bytes.
const maxNumber = 20

// OpenChannel opens a channel to w. Ending ctx ends it at once.
func OpenChannel(ctx context.Context, c *access.Client, w io.Writer) (*Channel, error) {
	// The file is the output, a pipe, of a process that does nothing until its
	// input ends. The pipe ends after that when all writers have closed it.
	input, near := io.Pipe()
	ch := &Channel{input: near, ended: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(ctx)
	first := &firstLine{rest: w, broken: cancel, got: make(chan string, 1)}
	go func() {
		defer close(ch.ended)
		defer cancel(nil)
		defer input.Close()
		var status access.Status
		status, ch.err = c.Run(ctx, access.Command{Argv: []string{"sh", "-c", "echo $$; exec cat"}, Stdin: input, Stdout: first})
		if ch.err == nil && status.Code != 0 {
			ch.err = fmt.Errorf("its keeper in the machine ended with status %d", status.Code)
		}
	}()
	select {
	case line := <-first.got:
		pid, err := strconv.Atoi(line)
		if err != nil {
			ch.Close()
			return nil, fmt.Errorf("open a channel out of the machine: %q is no process", line)
		}
		ch.Path = fmt.Sprintf("/proc/%d/fd/1", pid)
		return ch, nil
	case <-ch.ended:
		return nil, fmt.Errorf("open a channel out of the machine: %w", errors.Join(ch.err, io.ErrUnexpectedEOF))
	}
}

// Close ends the channel once all that was written to it has come. Programs that
// still have it open hold it up, until the context ends.
func (c *Channel) Close() error {
	c.input.Close()
	<-c.ended
	return c.err
}

// firstLine takes the first line off a stream.
type firstLine struct {
	rest   io.Writer
	broken func(error) // told why the rest can't be written, since nobody waits for what Write says
	got    chan string
	line   []byte
	done   bool
}

func (f *firstLine) Write(b []byte) (int, error) {
	if f.done {
		return f.pass(b)
	}
	line, rest, whole := bytes.Cut(append(f.line, b...), []byte("\n"))
	f.line = line
	if !whole && len(line) <= maxNumber {
		return len(b), nil
	}
	f.done = true
	f.got <- string(line)
	if len(rest) > 0 {
		if _, err := f.pass(rest); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (f *firstLine) pass(b []byte) (int, error) {
	n, err := f.rest.Write(b)
	if err != nil {
		f.broken(err)
	}
	return n, err
}
