package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/access"
	"wolffia/internal/event"
	"wolffia/internal/supervisor"
)

// Handlers are what a server does where the lab alone does not know how.
type Handlers struct {
	Info Info
	Lab  *supervisor.Lab
	// Listen has events told what goes on in the lab, until stop is called.
	Listen func(events event.Sink) (stop func())
	// Apply makes the lab of what request says, in words of the command line's,
	// and tells events what nobody else is to hear of.
	Apply func(ctx context.Context, request json.RawMessage, events event.Sink) error
	// Down is told that the lab is to end, and whether its disks go with it; the
	// server ends once it returns.
	Down func(ctx context.Context, volumes bool) error
}

// Server answers on a socket.
type Server struct {
	h    Handlers
	http *http.Server
	l    net.Listener
	side sync.WaitGroup // connections that were taken over
	ctx  context.Context
	end  context.CancelFunc
	down chan struct{} // closed when Down has returned
	once sync.Once
}

// Serve answers on l, which it owns, until Close.
func Serve(l *net.UnixListener, h Handlers) *Server {
	s := &Server{h: h, l: l, down: make(chan struct{})}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.http = &http.Server{Handler: s.signed(s.mux()), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return s.ctx }}
	s.side.Go(func() { _ = s.http.Serve(owners{l}) })
	return s
}

// versionHeader says in each answer who gives it.
const versionHeader = "Wolffia-Version"

func (s *Server) signed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(versionHeader, s.h.Info.Version)
		h.ServeHTTP(w, r)
	})
}

// Down is closed when somebody has ended the lab.
func (s *Server) Down() <-chan struct{} { return s.down }

// Close ends the server and every connection. Answers under way have a moment.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.http.Shutdown(ctx)
	s.end()
	_ = s.http.Close()
	s.side.Wait()
}

// owners accepts who is the same user, or root.
type owners struct{ *net.UnixListener }

func (o owners) Accept() (net.Conn, error) {
	for {
		c, err := o.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && (uid == os.Getuid() || uid == 0) {
			return c, nil
		}
		c.Close()
	}
}

// peer is the user at the other end of a connection.
func peer(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, f func(*http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			reply(w, v, err)
		})
	}
	get("/v1/info", func(*http.Request) (any, error) { return s.h.Info, nil })
	get("/v1/machines", func(*http.Request) (any, error) { return s.h.Lab.Status(), nil })
	get("/v1/links", func(*http.Request) (any, error) { return s.h.Lab.Links(), nil })
	get("/v1/metrics", func(*http.Request) (any, error) { return readMetrics() })
	get("/v1/spec", func(*http.Request) (any, error) { return s.h.Lab.Spec(), nil })
	get("/v1/machines/{name}/keys", s.keys)
	get("/v1/machines/{name}/wait", func(r *http.Request) (any, error) {
		return s.h.Lab.Wait(r.Context(), r.PathValue("name"), supervisor.State(r.FormValue("seen")))
	})
	mux.HandleFunc("POST /v1/machines/{name}/size", s.size)
	mux.HandleFunc("POST /v1/links/{name}", s.link)
	mux.HandleFunc("POST /v1/apply", s.apply)
	mux.HandleFunc("POST /v1/restart", s.each(s.h.Lab.Restart))
	mux.HandleFunc("POST /v1/stop", s.each(s.h.Lab.Stop))
	mux.HandleFunc("POST /v1/kill", s.each(func(_ context.Context, names ...string) error { return s.h.Lab.Kill(names...) }))
	mux.HandleFunc("POST /v1/down", s.takeDown)
	mux.HandleFunc("GET /v1/machines/{name}/ssh", s.ssh)
	mux.HandleFunc("GET /v1/machines/{name}/console", s.console)
	mux.HandleFunc("GET /v1/machines/{name}/log", s.log)
	mux.HandleFunc("GET /v1/capture", s.capture)
	mux.HandleFunc("GET /v1/profiles/{name}", s.profile)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, nil, Usage(&unservedError{r.Method, r.URL.Path}))
	})
	return mux
}

// unservedError is a request for what nobody serves.
type unservedError struct{ method, path string }

func (e *unservedError) Error() string {
	return fmt.Sprintf("there is no %s %.100q; docs/labs.md lists what there is", e.method, e.path)
}

// bodyPatience is how long a request may take to come in.
const bodyPatience = 10 * time.Second

// body reads a request's JSON.
func body(w http.ResponseWriter, r *http.Request, v any) error {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(bodyPatience)) // as every connection here can
	defer c.SetReadDeadline(time.Time{})
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return Usage(fmt.Errorf("read the request: %w", err))
	}
	return nil
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) {
	var request json.RawMessage
	if err := body(w, r, &request); err != nil {
		reply(w, nil, err)
		return
	}
	s.follow(w, r, func(ctx context.Context, events event.Sink) error { return s.h.Apply(ctx, request, events) })
}

// follow is stream for what the lab itself tells about.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, f func(context.Context, event.Sink) error) {
	stream(w, r, func(ctx context.Context, events event.Sink) error {
		defer s.h.Listen(events)()
		return f(ctx, events)
	})
}

// each does something with the machines that a request names.
func (s *Server) each(do func(ctx context.Context, names ...string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var names []string
		if err := body(w, r, &names); err != nil {
			reply(w, nil, err)
			return
		}
		s.follow(w, r, func(ctx context.Context, _ event.Sink) error { return do(ctx, names...) })
	}
}

func (s *Server) takeDown(w http.ResponseWriter, r *http.Request) {
	s.follow(w, r, func(ctx context.Context, _ event.Sink) error {
		err := s.h.Down(ctx, r.FormValue("volumes") == "true")
		s.once.Do(func() { close(s.down) })
		return err
	})
}

func (s *Server) size(w http.ResponseWriter, r *http.Request) {
	var size access.Size
	err := body(w, r, &size)
	if err == nil && (min(size.Cols, size.Rows) < 1 || max(size.Cols, size.Rows) > maxSize) {
		err = Usage(fmt.Errorf("a terminal of %d columns and %d rows can't be", size.Cols, size.Rows))
	}
	if err == nil {
		err = s.resize(r.PathValue("name"), size)
	}
	reply(w, nil, err)
}

// maxSize is how many columns or rows a terminal can have.
const maxSize = 1<<16 - 1

func (s *Server) resize(name string, size access.Size) error {
	v, err := s.h.Lab.View(name, false)
	if err != nil {
		return err
	}
	defer v.Close()
	return v.Resize(size.Cols, size.Rows)
}

func (s *Server) link(w http.ResponseWriter, r *http.Request) {
	var change LinkChange
	err := body(w, r, &change)
	if err == nil {
		err = s.change(r.PathValue("name"), change)
	}
	reply(w, nil, err)
}

func (s *Server) change(name string, change LinkChange) error {
	link, err := s.h.Lab.Link(name)
	if err != nil {
		return Usage(err)
	}
	if err := link.SetImpairment(change.Out, change.In); err != nil {
		return Usage(err)
	}
	if change.Up != nil {
		return link.SetUp(*change.Up)
	}
	return nil
}

// keys are those that let the lab's owner into a machine, in PEM.
type keys struct {
	Client []byte `json:"client"`
	Host   []byte `json:"host"`
}

func (s *Server) keys(r *http.Request) (any, error) {
	k, err := s.h.Lab.Keys(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return packKeys(k)
}

func packKeys(k access.Keys) (out keys, err error) {
	for _, x := range []struct {
		key any
		to  *[]byte
	}{{k.Client, &out.Client}, {k.Host, &out.Host}} {
		der, err := x509.MarshalPKCS8PrivateKey(x.key)
		if err != nil {
			return out, fmt.Errorf("encode a key: %w", err)
		}
		*x.to = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	return out, nil
}

// takeOver makes the request's connection a plain one.
func takeOver(w http.ResponseWriter) (net.Conn, io.Reader, error) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take over the connection: %w", err)
	}
	_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("take over the connection: %w", err)
	}
	return c, rw.Reader, nil
}

// protocol is what a connection speaks that was taken over: whatever is at the
// other end.
const protocol = "wolffia-raw"

func (s *Server) ssh(w http.ResponseWriter, r *http.Request) {
	guest, _, err := s.h.Lab.Connect(r.Context(), r.PathValue("name"))
	if err != nil {
		reply(w, nil, err)
		return
	}
	defer guest.Close()
	s.join(w, guest)
}

func (s *Server) console(w http.ResponseWriter, r *http.Request) {
	v, err := s.h.Lab.View(r.PathValue("name"), r.FormValue("replay") != "false")
	if err != nil {
		reply(w, nil, err)
		return
	}
	defer v.Close()
	s.join(w, v)
}

// join copies both ways between the request's connection and other, until one
// of them ends.
func (s *Server) join(w http.ResponseWriter, other io.ReadWriteCloser) {
	s.side.Add(1)
	defer s.side.Done()
	c, in, err := takeOver(w)
	if err != nil {
		return
	}
	stop := context.AfterFunc(s.ctx, func() { c.Close() })
	defer stop()
	over := make(chan struct{})
	var typing sync.WaitGroup
	typing.Go(func() {
		_, err := io.Copy(other, in)
		if half, ok := other.(interface{ CloseWrite() error }); ok && err == nil {
			half.CloseWrite()
			awaitHangup(c, over)
		}
		other.Close()
	})
	_, _ = io.Copy(c, other)
	close(over)
	c.Close()
	other.Close()
	typing.Wait()
}

// hangupEvery is how often a connection is looked at of which one end was closed.
const hangupEvery = time.Second

// awaitHangup waits until nobody is at the other end of a connection any more,
// which to who reads looks like one that only says nothing more; or until over.
func awaitHangup(c net.Conn, over <-chan struct{}) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := u.SyscallConn()
	for gone := false; err == nil && !gone; {
		select {
		case <-over:
			return
		case <-time.After(hangupEvery):
		}
		err = raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd)}}
			_, perr := unix.Poll(p, 0)
			gone = perr == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		})
	}
}

func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	path, err := s.h.Lab.Log(r.PathValue("name"))
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.FormValue("follow") != "true" {
		for _, name := range []string{path + ".1", path} {
			if f, err := os.Open(name); err == nil {
				_, _ = io.Copy(w, f)
				f.Close()
			}
		}
		return
	}
	v, err := s.h.Lab.Follow(r.PathValue("name"))
	if err != nil {
		reply(w, nil, err)
		return
	}
	defer v.Close()
	stop := context.AfterFunc(r.Context(), func() { v.Viewer.Close() })
	defer stop()
	flush := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := v.Read(buf)
		if err != nil {
			return
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return
		}
		_ = flush.Flush()
	}
}

func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	o := supervisor.CaptureOptions{Machine: r.FormValue("machine"), Network: r.FormValue("network"), Filter: r.FormValue("filter")}
	if last := r.FormValue("last"); last != "" {
		d, err := time.ParseDuration(last)
		if err != nil {
			reply(w, nil, Usage(fmt.Errorf("read the time of a capture: %w", err)))
			return
		}
		o.Last = d
	}
	if count := r.FormValue("count"); count != "" {
		n, err := strconv.ParseUint(count, 10, 64)
		if err != nil {
			reply(w, nil, Usage(fmt.Errorf("read the length of a capture: %w", err)))
			return
		}
		o.Count = n
	}
	if err := s.h.Lab.CheckCapture(o); err != nil {
		reply(w, nil, Usage(err))
		return
	}
	w.Header().Set("Content-Type", "application/x-pcapng")
	if o.Last > 0 {
		_, _ = s.h.Lab.Last(w, o)
		return
	}
	_ = s.h.Lab.Capture(r.Context(), flushing{w, http.NewResponseController(w)}, o)
}

// flushing sends on what is written at once.
type flushing struct {
	w io.Writer
	c *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}
