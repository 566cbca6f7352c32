// Package access gets into a running machine: ssh inside the process, against
// the dropbear that the guest runs, over any connection that reaches it.
//
// Both sides are pinned: the guest accepts one key, made for this machine, and
// [Dial] accepts one host key, made for this machine too. There is nothing to
// ask and no known_hosts file.
//
// Only what wolffia needs of ssh (RFC 4251 to 4254) is here: sessions with a
// command, with and without a terminal, and connections to what listens in the
// guest. Listening there, agents and passwords are deliberately absent.
//
//	c, err := access.Dial(ctx, conn, "root", keys)
//	status, err := c.Run(ctx, access.Command{Argv: []string{"uname", "-a"}, Stdout: os.Stdout})
package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Keys are the two keys of one machine: the guest's host key and the one that
// lets us in.
type Keys struct {
	Host ed25519.PrivateKey
	// Client is of NIST P-256: dropbear checks its signatures three
	// milliseconds faster than those of ed25519, which is a third of the login.
	Client crypto.Signer
}

// GenerateKeys makes new keys from random, such as crypto/rand.Reader.
func GenerateKeys(random io.Reader) (Keys, error) {
	_, host, err := ed25519.GenerateKey(random)
	if err != nil {
		return Keys{}, fmt.Errorf("make the host key: %w", err)
	}
	client, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return Keys{}, fmt.Errorf("make the client key: %w", err)
	}
	return Keys{Host: host, Client: client}, nil
}

// AuthorizedKey is the line for the guest's authorized_keys, with a newline.
func (k Keys) AuthorizedKey() (string, error) {
	pub, err := ssh.NewPublicKey(k.Client.Public())
	if err != nil {
		return "", fmt.Errorf("encode the client key: %w", err)
	}
	return string(ssh.MarshalAuthorizedKey(pub)), nil
}

// Identity is the client key as a file for OpenSSH's IdentityFile.
func (k Keys) Identity() ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(k.Client, "")
	if err != nil {
		return nil, fmt.Errorf("encode the client key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}

// KnownHost is the machine's host key as a line for OpenSSH's known_hosts, under
// the name that OpenSSH is to know the machine by.
func (k Keys) KnownHost(name string) ([]byte, error) {
	pub, err := ssh.NewPublicKey(k.Host.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the host key: %w", err)
	}
	return append([]byte(name+" "), ssh.MarshalAuthorizedKey(pub)...), nil
}

// handshakeTimeout bounds how long the guest may take to agree on keys once
// the connection stands; an emulated guest needs a few seconds at most.
const handshakeTimeout = 30 * time.Second

// Client is a pinned ssh connection to a machine.
type Client struct {
	ssh     *ssh.Client
	watched watched
	ended   chan struct{} // closed at the connection's end
}

// Dial logs in as user over conn, which it owns from then on: it is closed
// with the client, or when Dial fails.
func Dial(ctx context.Context, conn net.Conn, user string, keys Keys) (*Client, error) {
	signer, err := ssh.NewSignerFromKey(keys.Client)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("use the client key: %w", err)
	}
	host, err := ssh.NewPublicKey(keys.Host.Public())
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("use the host key: %w", err)
	}
	config := &ssh.ClientConfig{
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   ssh.FixedHostKey(host),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeCurve25519},
			// The cheapest in a guest without AES instructions of its own.
			Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR},
		},
	}
	deadline := time.Now().Add(handshakeTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	c, channels, requests, err := ssh.NewClientConn(conn, conn.RemoteAddr().String(), config)
	if !stop() && err == nil {
		err = context.Cause(ctx)
		c.Close()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in to the machine as %s: %w", user, err)
	}
	conn.SetDeadline(time.Time{})
	client := &Client{ssh: ssh.NewClient(c, channels, requests), ended: make(chan struct{})}
	go func() { // ends with the connection
		client.ssh.Wait()
		close(client.ended)
	}()
	return client, nil
}

// Close ends the connection and every command that runs over it.
func (c *Client) Close() error {
	err := c.ssh.Close()
	c.watched.stop()
	return err
}

// Connect makes a TCP connection from inside the guest to an address as the
// guest sees it, such as "127.0.0.1:2345": what listens there need not be in
// reach of any network.
func (c *Client) Connect(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := open(ctx, c, func() (net.Conn, error) { return c.ssh.Dial("tcp", addr) })
	if err != nil {
		return nil, fmt.Errorf("connect to %s in the machine: %w", addr, c.watched.lost(err))
	}
	return conn, nil
}

// open has a channel opened by how, and gives up with ctx or the connection. The ssh
// library takes no note of a first write that fails, and waits for an answer to it
// for ever where the connection has just ended; what waits there is left behind.
func open[T io.Closer](ctx context.Context, c *Client, how func() (T, error)) (channel T, _ error) {
	type result struct {
		channel T
		err     error
	}
	opened, left := make(chan result), make(chan struct{})
	defer close(left)
	go func() {
		channel, err := how()
		select {
		case opened <- result{channel, err}:
		case <-left:
			if err == nil {
				channel.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		return r.channel, r.err
	case <-ctx.Done():
		return channel, context.Cause(ctx)
	case <-c.ended:
		return channel, net.ErrClosed
	}
}

// Size is a terminal's size in characters.
type Size struct{ Cols, Rows int }

// Command is one program to run in the guest.
type Command struct {
	Argv []string // program and arguments, passed on byte for byte; empty runs the login shell
	Env  []string // "NAME=value", set before the program starts
	// Stdin is read until its end or the program's, which may leave one read
	// under way; nil is an empty input.
	Stdin          io.Reader
	Stdout, Stderr io.Writer     // nil drops what is written
	Terminal       string        // with a value such as "xterm", the program gets a terminal of this kind
	Size           Size          // of the terminal
	Resize         <-chan Size   // changes of it
	Signals        <-chan string // signals to pass on, by name without SIG: "INT", "TERM"
}

// Status is how a command ended.
type Status struct {
	Code   int    // exit status 0 to 255; 128 and the signal's number when Signal is set
	Signal string // the signal that ended it, without SIG; empty after a normal exit
}

// path is what a program is looked for in; dropbear's own default lacks the
// sbin folders.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// endOfFile is what a person types to end the input, Ctrl-D.
const endOfFile = 4

// maxLine is how long a command line may be for dropbear to take it (9000
// bytes, MAX_CMD_LEN in its sysoptions.h), with room to spare.
const maxLine = 8192

// Run starts the command and waits for its end and the last byte it wrote.
// The error is about the connection, such as a [*SilentError]; a program that
// fails is a Status. When ctx
// ends, so does Run, with the cause: the guest is told to kill the program, but
// not waited for. When ctx ends before the program has started, the connection
// is closed, because a guest that hangs would never answer.
func (c *Client) Run(ctx context.Context, cmd Command) (Status, error) {
	line := shellLine(cmd)
	if len(line) > maxLine {
		var err error
		if line, err = c.leave(ctx, line); err != nil {
			return Status{}, fmt.Errorf("hand over the command, which is long: %w", err)
		}
	}
	return c.run(ctx, cmd, line)
}

// leave puts a command line that is too long for ssh into a file of the guest,
// and gives one that runs the file, which removes itself first.
func (c *Client) leave(ctx context.Context, line string) (string, error) {
	var name, errs bytes.Buffer
	st, err := c.run(ctx, Command{Stdin: strings.NewReader(line), Stdout: &name, Stderr: &errs},
		"umask 077 && f=$(mktemp /tmp/wolffia.XXXXXX) && { echo rm -f $f; cat; } >$f && echo $f")
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("exit status %d: %s", st.Code, bytes.TrimSpace(errs.Bytes()))
	}
	return ". " + Quote(strings.TrimSuffix(name.String(), "\n")), err
}

// run starts a command line and waits for it.
func (c *Client) run(ctx context.Context, cmd Command, line string) (_ Status, err error) {
	stop := context.AfterFunc(ctx, func() { c.ssh.Close() })
	defer stop()
	defer func() {
		if err = c.watched.lost(err); err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	s, err := open(ctx, c, c.ssh.NewSession)
	if err != nil {
		return Status{}, fmt.Errorf("open a session: %w", err)
	}
	defer s.Close()
	s.Stdout, s.Stderr = discardNil(cmd.Stdout), discardNil(cmd.Stderr)
	stdin, err := s.StdinPipe()
	if err != nil {
		return Status{}, fmt.Errorf("open the command's input: %w", err)
	}
	if cmd.Terminal != "" {
		err := s.RequestPty(cmd.Terminal, max(cmd.Size.Rows, 1), max(cmd.Size.Cols, 1), ssh.TerminalModes{})
		if err != nil {
			return Status{}, fmt.Errorf("ask the machine for a terminal: %w", err)
		}
	}
	if line == "" {
		err = s.Shell()
	} else {
		err = s.Start(line)
	}
	if err != nil {
		return Status{}, fmt.Errorf("start the command: %w", err)
	}
	if !stop() {
		return Status{}, context.Cause(ctx)
	}
	// A server may keep a channel open until the program has ended by itself
	// (dropbear does), so closing it is not enough.
	defer context.AfterFunc(ctx, func() {
		s.Signal(ssh.SIGKILL)
		s.Close()
	})()

	// The input's copier is not waited for: it may sit in a read that only the
	// person at the keyboard can end.
	go func() {
		if cmd.Stdin != nil {
			io.Copy(stdin, cmd.Stdin)
		}
		if cmd.Terminal != "" { // which has but one end: closing it would lose the output, too
			stdin.Write([]byte{endOfFile})
			return
		}
		stdin.Close()
	}()
	ended := make(chan struct{})
	var side sync.WaitGroup
	side.Go(func() { relay(s, cmd, ended) })
	waited := make(chan error, 1)
	go func() { waited <- s.Wait() }() // ends with the connection at the latest
	select {
	case err = <-waited:
	case <-ctx.Done():
	}
	close(ended)
	side.Wait()
	if ctx.Err() != nil {
		return Status{}, context.Cause(ctx)
	}
	return status(err)
}

// relay passes signals and changes of the terminal's size on until ended.
func relay(s *ssh.Session, cmd Command, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case sig := <-cmd.Signals:
			s.Signal(ssh.Signal(sig))
		case size := <-cmd.Resize:
			s.WindowChange(max(size.Rows, 1), max(size.Cols, 1))
		}
	}
}

// status reads what ssh says about a command's end (RFC 4254, 6.10).
func status(err error) (Status, error) {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return Status{}, nil
	case errors.As(err, &exit) && exit.Signal() != "":
		return Status{Code: 128 + signalNumber(exit.Signal()), Signal: exit.Signal()}, nil
	case errors.As(err, &exit):
		// A number beyond 255 would lose its high bits in wait(2), and 256 turn
		// into success.
		if code := exit.ExitStatus(); code >= 0 && code <= 255 {
			return Status{Code: code}, nil
		}
		return Status{Code: 255}, nil
	}
	return Status{}, fmt.Errorf("the connection to the machine ended before the command did: %w", err)
}

// shellLine writes the command for the guest's shell, which becomes the
// program by exec, so that signals reach the program itself.
func shellLine(cmd Command) string {
	if len(cmd.Argv) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("export PATH=" + path)
	for _, e := range cmd.Env {
		name, value, _ := strings.Cut(e, "=")
		b.WriteString(" " + name + "=" + Quote(value))
	}
	b.WriteString("; exec")
	for _, a := range cmd.Argv {
		b.WriteString(" " + Quote(a))
	}
	return b.String()
}

// plainBytes need no quotes in any shell.
const plainBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,+@%"

// Quote makes one word of any bytes but NUL for a POSIX shell.
func Quote(s string) string {
	if s != "" && strings.Trim(s, plainBytes) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func discardNil(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// signalNames are those that ssh knows (RFC 4254, 6.10), with Linux's numbers,
// which are the same on every architecture that Debian has.
var signalNames = map[unix.Signal]string{
	unix.SIGHUP: "HUP", unix.SIGINT: "INT", unix.SIGQUIT: "QUIT", unix.SIGILL: "ILL", unix.SIGTRAP: "TRAP",
	unix.SIGABRT: "ABRT", unix.SIGBUS: "BUS", unix.SIGFPE: "FPE", unix.SIGKILL: "KILL", unix.SIGUSR1: "USR1",
	unix.SIGSEGV: "SEGV", unix.SIGUSR2: "USR2", unix.SIGPIPE: "PIPE", unix.SIGALRM: "ALRM", unix.SIGTERM: "TERM",
}

// SignalName is the name that ssh has for a signal, if it has one.
func SignalName(s unix.Signal) (string, bool) {
	name, ok := signalNames[s]
	return name, ok
}

func signalNumber(name string) int {
	for s, n := range signalNames {
		if n == name {
			return int(s)
		}
	}
	return 0
}

// Output runs argv and gives what it wrote to standard output; a status other
// than 0 is an error that carries what it wrote to standard error.
func (c *Client) Output(ctx context.Context, argv ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	st, err := c.Run(ctx, Command{Argv: argv, Stdout: &out, Stderr: &errs})
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("%s: exit status %d: %s", argv[0], st.Code, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), err
}
