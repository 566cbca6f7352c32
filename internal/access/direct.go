package access

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Direct is a machine whose init has one command to run, or none, with the host at
// the other end of channels ([machine.Channeler]) instead of ssh: see files/ports of
// package rootfs for what goes over them. It has no terminals and no second command,
// and takes no time to log in, which an emulated machine would spend on keys.
type Direct struct {
	control *net.UnixConn
	streams []*net.UnixConn // output, errors and, where it has one, input; none without a command
	end     []byte          // what comes behind the last of output and errors
	watched watched

	lines  sync.Mutex // taken to write a line
	exited chan int   // the command's status, once
	pongs  chan struct{}
	closed chan struct{} // when nothing comes from control any more
}

// DirectChannels are the names of the channels, for a machine with a command or, nil,
// without. A command without Stdin has none for it.
func DirectChannels(cmd *Command) []string {
	names := []string{"wolffia.control"}
	if cmd == nil {
		return names
	}
	names = append(names, "wolffia.out", "wolffia.err")
	if cmd.Stdin != nil {
		names = append(names, "wolffia.in")
	}
	return names
}

// DirectEnd makes the word that comes behind the last that the command wrote.
func DirectEnd() string { return rand.Text() }

// Line is the command, with its environment, as a line for the guest's shell.
func (c Command) Line() string { return shellLine(c) }

// NewDirect takes the host's ends of [DirectChannels], which it owns from then on;
// end is [DirectEnd]'s, empty without a command.
func NewDirect(channels []*net.UnixConn, end string) *Direct {
	d := &Direct{
		control: channels[0], streams: channels[1:], end: []byte(end + "\n"),
		exited: make(chan int, 1), pongs: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	go d.listen() // ends with the channel: at the machine's end, or by Close
	return d
}

// Close ends everything that is under way.
func (d *Direct) Close() {
	d.cut()
	d.watched.stop()
	<-d.closed
}

// maxControlLine bounds what a guest may say at once, in bytes.
const maxControlLine = 4096

// listen reads what the guest says.
func (d *Direct) listen() {
	defer close(d.closed)
	lines := bufio.NewScanner(d.control)
	lines.Buffer(make([]byte, 0, 256), maxControlLine)
	for lines.Scan() {
		switch word, what, _ := strings.Cut(lines.Text(), " "); word {
		case "pong":
			select {
			case d.pongs <- struct{}{}:
			default:
			}
		case "exit":
			code, err := strconv.ParseUint(what, 10, 8)
			if err != nil {
				code = 255
			}
			select {
			case d.exited <- int(code):
			default: // it has one end
			}
		}
	}
	if lines.Err() != nil { // who makes no sense is not waited for
		d.cut()
	} // what a machine that has ended wrote last is still to be read
}

// say writes a line, and gives up on a guest that has not read the last ones.
func (d *Direct) say(line string) error {
	d.lines.Lock()
	defer d.lines.Unlock()
	d.control.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := io.WriteString(d.control, line+"\n")
	if err != nil && n > 0 {
		d.control.Close() // half a line would spoil the next one
	}
	return err
}

// KeepAlive is [Client.KeepAlive].
func (d *Direct) KeepAlive(a Alive) { d.watched.watch(a, d.question, d.cut) }

// cut closes all channels: what is under way ends.
func (d *Direct) cut() {
	d.control.Close()
	for _, s := range d.streams {
		s.Close()
	}
}

// question asks whether the guest is there.
func (d *Direct) question() chan error {
	answer := make(chan error, 1)
	select {
	case <-d.pongs: // late, for a question before
	default:
	}
	d.say("ping now") // a guest that reads nothing does not answer either
	go func() {
		select {
		case <-d.pongs:
			answer <- nil
		case <-d.closed:
			answer <- net.ErrClosed
		}
	}()
	return answer
}

// Resize tells the guest the size of the terminal that shows its console.
func (d *Direct) Resize(size Size) error {
	return d.say(fmt.Sprintf("size %d %d", max(size.Cols, 1), max(size.Rows, 1)))
}

// drainAfter is how long after the command's end others may keep its output open
// before they are left behind.
const drainAfter = 100 * time.Millisecond

// Run is [Client.Run] of the one command that the machine was started for, of which
// cmd has the streams and signals: what to run and its environment were given in
// the machine's identity. It is called once. A status above 128 is a signal's, where
// the command was ended by one; Signal is not set.
func (d *Direct) Run(ctx context.Context, cmd Command) (_ Status, err error) {
	defer func() {
		if err = d.watched.lost(err); err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	defer context.AfterFunc(ctx, d.cut)() // the machine ends with its command
	// The input's copier is not waited for: it may sit in a read that only the
	// person at the keyboard can end.
	if len(d.streams) > 2 {
		go func() {
			if cmd.Stdin != nil {
				io.Copy(d.streams[2], cmd.Stdin)
			}
			d.streams[2].CloseWrite()
		}()
	}
	written := make(chan error, 2)
	for i, w := range []io.Writer{cmd.Stdout, cmd.Stderr} {
		go func() { written <- copyUntil(discardNil(w), d.streams[i], d.end) }()
	}
	code, exited, closed, drain := 0, d.exited, d.closed, (<-chan time.Time)(nil)
	for left := 2; left > 0 || exited != nil && closed != nil; {
		select {
		case code = <-exited:
			exited, drain = nil, time.After(drainAfter)
		case <-drain:
			d.say("drain")
		case e := <-written:
			left--
			err = errors.Join(err, e)
		case sig := <-cmd.Signals:
			d.say("signal " + sig)
		case <-closed: // what it wrote last is still to be read
			closed = nil
			select {
			case code = <-exited: // it came before
				exited = nil
			default:
			}
		case <-ctx.Done(): // the output's copiers may sit in a write that nobody reads
			return Status{}, context.Cause(ctx)
		}
	}
	switch {
	case exited != nil:
		return Status{}, fmt.Errorf("the connection to the machine ended before the command did: %w", errors.Join(err, io.ErrUnexpectedEOF))
	case err != nil:
		return Status{}, fmt.Errorf("the command's output: %w", err)
	}
	return Status{Code: code}, nil
}

// copyUntil copies what comes before the word end. Of what could be its beginning
// nothing is held back for longer than it could.
func copyUntil(to io.Writer, from io.Reader, end []byte) error {
	buf := make([]byte, 64<<10)
	held := 0 // bytes of buf that may begin the end
	for {
		n, err := from.Read(buf[held:])
		have := buf[:held+n]
		if i := bytes.Index(have, end); i >= 0 {
			_, err := to.Write(have[:i])
			return err
		}
		held = 0
		if err == nil {
			held = beginning(have, end)
		}
		if sure := have[:len(have)-held]; len(sure) > 0 {
			if _, err := to.Write(sure); err != nil {
				return err
			}
		}
		copy(buf, have[len(have)-held:])
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
}

// beginning is how many of the last bytes of b could be the first of end.
func beginning(b, end []byte) int {
	for n := min(len(b), len(end)-1); n > 0; n-- {
		if bytes.HasSuffix(b, end[:n]) {
			return n
		}
	}
	return 0
}
