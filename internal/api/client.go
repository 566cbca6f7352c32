package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/supervisor"
	"wolffia/internal/vnet/link"
)

// Impairment is what a cable does to frames.
type Impairment = link.Impairment

// Client talks to one lab's supervisor.
type Client struct {
	dir     *os.File // the socket's folder
	name    string   // of the socket in it
	version string   // of this side
	http    *http.Client
}

// Dial makes a client of some version for a socket. Whether anybody listens there
// the first request shows.
func Dial(socket, version string) (*Client, error) {
	// A socket's name may be no longer than 107 bytes, however deep its folder
	// is: it is reached by way of the open folder.
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, fmt.Errorf("find the lab's supervisor: %w", err)
	}
	c := &Client{dir: dir, name: filepath.Base(socket), version: version}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
		DisableKeepAlives: true,
	}}
	return c, nil
}

// Close frees the client.
func (c *Client) Close() error { return c.dir.Close() }

func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(c.dir.Fd()))+"/"+c.name)
}

// GoneError is a supervisor that does not answer: it has ended.
type GoneError struct{ Err error }

func (e *GoneError) Error() string {
	return "the lab's supervisor does not answer: " + e.Err.Error()
}

func (e *GoneError) Unwrap() error { return e.Err }

// request makes the head of a request. What is in a path is the server's to find,
// whatever it is.
func request(method string, path []string, query url.Values) (*http.Request, error) {
	u := "http://wolffia/v1"
	for _, p := range path {
		if p == "" || p == "." || p == ".." { // which an address can't say
			return nil, &Error{Message: fmt.Sprintf("unknown name %q", p), Usage: true}
		}
		u += "/" + url.PathEscape(p)
	}
	r, err := http.NewRequest(method, u+"?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	return r, nil
}

// do sends a request and gives the answer's body, if the answer is not an error.
func (c *Client) do(ctx context.Context, method string, path []string, query url.Values, body any) (io.ReadCloser, error) {
	r, err := request(method, path, query)
	if err != nil {
		return nil, err
	}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	}
	answer, err := c.http.Do(r.WithContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &GoneError{err}
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		return nil, c.readError(answer)
	}
	return answer.Body, nil
}

// readError reads why a request was refused. What another version refuses as
// misuse may be none.
func (c *Client) readError(answer *http.Response) error {
	e := &Error{}
	err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(e)
	unclear := err != nil || e.Message == ""
	if unclear {
		*e = Error{Message: unexpected(answer.Status).Error()}
	}
	if theirs := answer.Header.Get(versionHeader); theirs != c.version && (unclear || e.Usage) {
		if e.Fix != "" {
			e.Fix += "; "
		}
		e.Fix += OtherVersion(theirs, c.version)
	}
	return e
}

// OtherVersion says that a lab is run by another wolffia, and what helps.
func OtherVersion(theirs, ours string) string {
	return fmt.Sprintf("the lab was started by wolffia %s, and this is %s; to have this one run it: wolffia down && wolffia up", theirs, ours)
}

// call asks for something and decodes it into v, unless v is nil.
func (c *Client) call(ctx context.Context, method string, path []string, query url.Values, body, v any) error {
	in, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer in.Close()
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(in, maxAnswer)).Decode(v); err != nil {
		return unexpected(err.Error())
	}
	return nil
}

// follow asks for something that takes time, and tells its events.
func (c *Client) follow(ctx context.Context, path []string, query url.Values, body any, events event.Sink) error {
	in, err := c.do(ctx, "POST", path, query, body)
	if err != nil {
		return err
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxNews)
	for lines.Scan() {
		var n news
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			return unexpected(err.Error())
		}
		switch {
		case n.Event != nil:
			events.Emit(*n.Event)
		case n.End != nil && n.End.Error != nil:
			return n.End.Error
		case n.End != nil:
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return &GoneError{err}
}

// Info says what lab this is.
func (c *Client) Info(ctx context.Context) (i Info, err error) {
	err = c.call(ctx, "GET", []string{"info"}, nil, nil, &i)
	return i, err
}

// Machines tells of the lab's machines.
func (c *Client) Machines(ctx context.Context) (out []supervisor.MachineStatus, err error) {
	err = c.call(ctx, "GET", []string{"machines"}, nil, nil, &out)
	return out, err
}

// Links tells of all that is plugged into the lab's networks.
func (c *Client) Links(ctx context.Context) (out []supervisor.LinkStatus, err error) {
	err = c.call(ctx, "GET", []string{"links"}, nil, nil, &out)
	return out, err
}

// Spec is the lab as it was applied last; nil if it never was.
func (c *Client) Spec(ctx context.Context) (out *lab.Spec, err error) {
	err = c.call(ctx, "GET", []string{"spec"}, nil, nil, &out)
	return out, err
}

// Apply asks for [Handlers].Apply.
func (c *Client) Apply(ctx context.Context, request any, events event.Sink) error {
	return c.follow(ctx, []string{"apply"}, nil, request, events)
}

// Restart restarts machines, all of them if none is named, and waits until they
// are ready.
func (c *Client) Restart(ctx context.Context, names []string, events event.Sink) error {
	return c.follow(ctx, []string{"restart"}, nil, names, events)
}

// Stop shuts machines down, all of them if none is named.
func (c *Client) Stop(ctx context.Context, names []string, events event.Sink) error {
	return c.follow(ctx, []string{"stop"}, nil, names, events)
}

// Kill ends machines at once, all of them if none is named.
func (c *Client) Kill(ctx context.Context, names []string) error {
	return c.follow(ctx, []string{"kill"}, nil, names, event.Discard)
}

// Down ends the lab, and with volumes its disks.
func (c *Client) Down(ctx context.Context, volumes bool, events event.Sink) error {
	return c.follow(ctx, []string{"down"}, url.Values{"volumes": {strconv.FormatBool(volumes)}}, nil, events)
}

// Wait waits until a machine's state is another one than seen.
func (c *Client) Wait(ctx context.Context, name string, seen supervisor.State) (s supervisor.State, err error) {
	err = c.call(ctx, "GET", machinePath(name, "wait"), url.Values{"seen": {string(seen)}}, nil, &s)
	return s, err
}

// SetLink changes a link, by a name that [supervisor.Lab.Link] takes.
func (c *Client) SetLink(ctx context.Context, name string, change LinkChange) error {
	return c.call(ctx, "POST", []string{"links", name}, nil, change, nil)
}

// Resize tells a machine the size of the terminal that shows its console.
func (c *Client) Resize(ctx context.Context, name string, cols, rows int) error {
	return c.call(ctx, "POST", machinePath(name, "size"), nil, access.Size{Cols: cols, Rows: rows}, nil)
}

func machinePath(name string, rest ...string) []string {
	return append([]string{"machines", name}, rest...)
}

// Keys are those that let the lab's owner into a machine.
func (c *Client) Keys(ctx context.Context, name string) (access.Keys, error) {
	var packed keys
	if err := c.call(ctx, "GET", machinePath(name, "keys"), nil, nil, &packed); err != nil {
		return access.Keys{}, err
	}
	return unpackKeys(packed)
}

func unpackKeys(packed keys) (out access.Keys, err error) {
	client, err := parseKey(packed.Client)
	if err != nil {
		return out, err
	}
	host, err := parseKey(packed.Host)
	if err != nil {
		return out, err
	}
	var ok1, ok2 bool
	out.Client, ok1 = client.(*ecdsa.PrivateKey)
	out.Host, ok2 = host.(ed25519.PrivateKey)
	if !ok1 || !ok2 {
		return out, unexpected("keys of another kind")
	}
	return out, nil
}

func parseKey(data []byte) (any, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, unexpected("a key that is none")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, unexpected(err.Error())
	}
	return key, nil
}

// Connect opens a connection to a machine's ssh server, once it can be entered.
func (c *Client) Connect(ctx context.Context, name string) (net.Conn, error) {
	return c.takeOver(ctx, machinePath(name, "ssh"), nil)
}

// Enter logs in to a machine as root.
func (c *Client) Enter(ctx context.Context, name string) (*access.Client, error) {
	conn, err := c.Connect(ctx, name)
	if err != nil {
		return nil, err
	}
	k, err := c.Keys(ctx, name)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return access.Dial(ctx, conn, "root", k)
}

// Console joins a machine's console: its output is read, what is written is
// typed. With replay the last output comes first.
func (c *Client) Console(ctx context.Context, name string, replay bool) (net.Conn, error) {
	return c.takeOver(ctx, machinePath(name, "console"), url.Values{"replay": {strconv.FormatBool(replay)}})
}

// Log is what a machine's console said, and with follow what it will say.
func (c *Client) Log(ctx context.Context, name string, follow bool) (io.ReadCloser, error) {
	return c.do(ctx, "GET", machinePath(name, "log"), url.Values{"follow": {strconv.FormatBool(follow)}}, nil)
}

// Capture gives frames as pcapng: those of the last time o.Last, or else from
// now on until it is closed.
func (c *Client) Capture(ctx context.Context, o supervisor.CaptureOptions) (io.ReadCloser, error) {
	q := url.Values{"machine": {o.Machine}, "network": {o.Network}, "filter": {o.Filter}}
	if o.Last > 0 {
		q.Set("last", o.Last.String())
	}
	if o.Count > 0 {
		q.Set("count", strconv.FormatUint(o.Count, 10))
	}
	return c.do(ctx, "GET", []string{"capture"}, q, nil)
}

// takeOver asks for a plain connection.
func (c *Client) takeOver(ctx context.Context, path []string, query url.Values) (net.Conn, error) {
	r, err := request("GET", path, query)
	if err != nil {
		return nil, err
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, &GoneError{err}
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	in, err := c.upgrade(conn, r)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &buffered{conn, in}, nil
}

func (c *Client) upgrade(conn net.Conn, r *http.Request) (*bufio.Reader, error) {
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: wolffia\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.URL.RequestURI(), protocol)
	if err != nil {
		return nil, &GoneError{err}
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, &GoneError{err}
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		defer answer.Body.Close()
		return nil, c.readError(answer)
	}
	return in, nil
}

// buffered is a connection of which something was read ahead.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// CloseWrite says that nothing more will be sent.
func (b *buffered) CloseWrite() error {
	if u, ok := b.Conn.(*net.UnixConn); ok {
		return u.CloseWrite()
	}
	return errors.ErrUnsupported
}
