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
	// Apply makes the lab of what request says, in words of the command line's,
	// and tells events how it goes on.
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
	s.http = &http.Server{Handler: s.mux(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return s.ctx }}
	s.side.Go(func() { _ = s.http.Serve(owners{l}) })
	return s
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
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			reply(w, v, err)
		})
	}
	get("GET /v1/info", func(*http.Request) (any, error) { return s.h.Info, nil })
	get("GET /v1/machines", func(*http.Request) (any, error) { return s.h.Lab.Status(), nil })
	get("GET /v1/links", func(*http.Request) (any, error) { return s.h.Lab.Links(), nil })
	get("GET /v1/metrics", func(*http.Request) (any, error) { return readMetrics() })
	get("GET /v1/spec", func(*http.Request) (any, error) { return s.h.Lab.Spec(), nil })
	get("GET /v1/machines/{name}/keys", s.keys)
	get("GET /v1/machines/{name}/wait", func(r *http.Request) (any, error) {
		return s.h.Lab.Wait(r.Context(), r.PathValue("name"), supervisor.State(r.FormValue("seen")))
	})
	get("POST /v1/machines/{name}/kill", func(r *http.Request) (any, error) { return nil, s.h.Lab.Kill(r.PathValue("name")) })
	get("POST /v1/machines/{name}/stop", func(r *http.Request) (any, error) {
		return nil, s.h.Lab.Stop(r.Context(), r.PathValue("name"))
	})
	get("POST /v1/machines/{name}/size", s.size)
	get("POST /v1/machines/{name}/links/{network}", s.link)
	mux.HandleFunc("POST /v1/apply", s.apply)
	mux.HandleFunc("POST /v1/restart", s.restart)
	mux.HandleFunc("POST /v1/down", s.takeDown)
	mux.HandleFunc("GET /v1/machines/{name}/ssh", s.ssh)
	mux.HandleFunc("GET /v1/machines/{name}/console", s.console)
	mux.HandleFunc("GET /v1/machines/{name}/log", s.log)
	mux.HandleFunc("GET /v1/capture", s.capture)
	mux.HandleFunc("GET /v1/profiles/{name}", s.profile)
	return mux
}

// body reads a request's JSON.
func body(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return Usage(fmt.Errorf("read the request: %w", err))
	}
	return nil
}

// stream tells events while f goes on, and how it ended.
func stream(w http.ResponseWriter, r *http.Request, f func(context.Context, event.Sink) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &lines{w: w, c: http.NewResponseController(w)}
	err := f(r.Context(), out)
	out.send(news{End: &end{wireError(err)}})
}

// lines writes one JSON object a line.
type lines struct {
	mu sync.Mutex
	w  io.Writer
	c  *http.ResponseController
}

// Emit implements [event.Sink].
func (l *lines) Emit(e event.Event) { l.send(news{Event: &e}) }

func (l *lines) send(n news) {
	l.mu.Lock()
	defer l.mu.Unlock()
	data, err := json.Marshal(n)
	if err != nil {
		return // an event that JSON can't say
	}
	_, _ = l.w.Write(append(data, '\n')) // who has gone ends the request's context
	_ = l.c.Flush()
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) {
	var request json.RawMessage
	if err := body(r, &request); err != nil {
		reply(w, nil, err)
		return
	}
	stream(w, r, func(ctx context.Context, events event.Sink) error { return s.h.Apply(ctx, request, events) })
}

func (s *Server) restart(w http.ResponseWriter, r *http.Request) {
	var names []string
	if err := body(r, &names); err != nil {
		reply(w, nil, err)
		return
	}
	stream(w, r, func(ctx context.Context, _ event.Sink) error { return s.h.Lab.Restart(ctx, names...) })
}

func (s *Server) takeDown(w http.ResponseWriter, r *http.Request) {
	stream(w, r, func(ctx context.Context, _ event.Sink) error {
		err := s.h.Down(ctx, r.FormValue("volumes") == "true")
		s.once.Do(func() { close(s.down) })
		return err
	})
}

func (s *Server) size(r *http.Request) (any, error) {
	var size access.Size
	if err := body(r, &size); err != nil {
		return nil, err
	}
	v, err := s.h.Lab.View(r.PathValue("name"), false)
	if err != nil {
		return nil, Usage(err)
	}
	defer v.Close()
	return nil, v.Resize(size.Cols, size.Rows)
}

func (s *Server) link(r *http.Request) (any, error) {
	var change LinkChange
	if err := body(r, &change); err != nil {
		return nil, err
	}
	name, network := r.PathValue("name"), r.PathValue("network")
	if network == "-" {
		network = ""
	}
	if change.Out != nil || change.In != nil {
		if err := s.h.Lab.SetImpairment(name, network, change.Out, change.In); err != nil {
			return nil, Usage(err)
		}
	}
	if change.Up != nil {
		return nil, s.h.Lab.SetLink(name, network, *change.Up)
	}
	return nil, nil
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
		reply(w, nil, Usage(err))
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
	var typing sync.WaitGroup
	typing.Go(func() {
		_, err := io.Copy(other, in)
		if half, ok := other.(interface{ CloseWrite() error }); ok && err == nil {
			half.CloseWrite()
			return
		}
		other.Close()
	})
	_, _ = io.Copy(c, other)
	c.Close()
	other.Close()
	typing.Wait()
}

func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	path, err := s.h.Lab.Log(r.PathValue("name"))
	if err != nil {
		reply(w, nil, Usage(err))
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
	v, err := s.h.Lab.View(r.PathValue("name"), true)
	if err != nil {
		return
	}
	defer v.Close()
	stop := context.AfterFunc(r.Context(), func() { v.Close() })
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
		_ = s.h.Lab.Last(w, o)
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
