package wire_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
	"wolffia/internal/vnet/wire"
)

// TestListenerLimit: one too many is hung up on, and let in when there is room.
func TestListenerLimit(t *testing.T) {
	g := newGate()
	o := g.options()
	o.MaxPeers = 2
	l, err := wire.ListenStream(filepath.Join(t.TempDir(), "made", "s"), o, g.accept)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	first := rawClient(t, l.Path())
	one := g.next(t)
	rawClient(t, l.Path())
	if two := g.next(t); one.peer.Name != "qemu/1" || two.peer.Name != "qemu/2" {
		t.Errorf("the peers are %+v, %+v", one.peer, two.peer)
	}
	hungUp(t, rawClient(t, l.Path()))
	if err := await(t, "a refusal", g.refused); !strings.Contains(err.Error(), "2 are plugged in already") {
		t.Error(err)
	}
	first.Close()
	if _, err := one.port.ReadFrames(vnet.NewBatch(1, 100)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if p := await(t, "an end", g.gone); p.Name != "qemu/1" {
		t.Errorf("%s is gone", p.Name)
	}
	eventually(t, "there is room again", func() bool { return len(l.Peers()) == 1 })
	rawClient(t, l.Path())
	if p := g.next(t).peer; p.Name != "qemu/1" {
		t.Errorf("the next is %s", p.Name)
	}
	l.Close()
	if _, err := os.Stat(filepath.Dir(l.Path())); !os.IsNotExist(err) {
		t.Errorf("the folder it made is still there: %v", err)
	}
}

// TestAcceptRefuses: who is not accepted is hung up on.
func TestAcceptRefuses(t *testing.T) {
	g := newGate()
	l, err := wire.ServeVDE(filepath.Join(t.TempDir(), "sw"), g.options(), func(p wire.Peer, _ vnet.Port) error {
		return errors.New("the switch is full")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	plug := startPlug(t, l.Path())
	if err := await(t, "a refusal", g.refused); !strings.Contains(err.Error(), "vde/1: the switch is full") {
		t.Error(err)
	}
	if _, err := plug.out.ReadByte(); err != io.EOF {
		t.Errorf("vde_plug did not end: %v", err)
	}
	eventually(t, "its data socket is gone", func() bool { return ls(t, l.Path()) == "ctl" })
	select {
	case p := <-g.gone:
		t.Errorf("%s is gone, which never came", p.Name)
	default:
	}
}

// listeners are all kinds, at a path.
var listeners = map[string]func(path string) (*wire.Listener, error){
	"VDE": func(p string) (*wire.Listener, error) {
		return wire.ServeVDE(p, wire.ListenOptions{}, newGate().accept)
	},
	"stream": func(p string) (*wire.Listener, error) {
		return wire.ListenStream(p, wire.ListenOptions{}, newGate().accept)
	},
	"bess": func(p string) (*wire.Listener, error) {
		return wire.ListenBess(p, wire.ListenOptions{}, newGate().accept)
	},
}

// TestListenerPlaces: a live socket is left alone, a dead one is replaced, and
// anything else is an error that says what to do.
func TestListenerPlaces(t *testing.T) {
	for name, listen := range listeners {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "here")
			l, err := listen(path)
			if err != nil {
				t.Fatal(err)
			}
			inUse := func(what string) {
				t.Helper()
				var busy *wire.InUseError
				if again, err := listen(path); !errors.As(err, &busy) || busy.Fix() == "" {
					t.Errorf("beside %s: %v, %v", what, again, err)
				}
			}
			inUse("another of us")
			socket := path
			kind := map[string]int{"VDE": unix.SOCK_STREAM, "stream": unix.SOCK_STREAM, "bess": unix.SOCK_SEQPACKET}[name]
			if name == "VDE" {
				socket = path + "/ctl"
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("after Close: %v", err)
			}

			// What a server that was killed leaves.
			if name == "VDE" {
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
				leave(t, path+"/001.5", unix.SOCK_DGRAM)
				leave(t, path+"/.01234-00000", unix.SOCK_DGRAM)
			}
			leave(t, socket, kind)
			if l, err = listen(path); err != nil {
				t.Fatal(err)
			}
			if name == "VDE" {
				checkMode(t, path, 0o700|os.ModeDir)
				if got := ls(t, path); got != "ctl" {
					t.Errorf("in the folder lie %s", got)
				}
			}
			l.Close()
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("after Close: %v", err)
			}

			// One that listens by another kind of socket.
			if name == "VDE" {
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			other, err := net.ListenUnix(map[string]string{"VDE": "unixpacket", "stream": "unixpacket", "bess": "unix"}[name], &net.UnixAddr{Name: socket})
			if err != nil {
				t.Fatal(err)
			}
			inUse("another kind")
			other.Close()

			if err := os.WriteFile(socket, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			badPlace(t, listen, path, "not a socket")
			if err := os.Remove(socket); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, listen := range listeners {
		t.Run(name+" long", func(t *testing.T) {
			var long *wire.PathTooLongError
			l, err := listen(filepath.Join(t.TempDir(), strings.Repeat("x", 100)))
			if !errors.As(err, &long) || long.Max == 0 || !strings.Contains(err.Error(), long.Fix()) {
				t.Errorf("%v, %v", l, err)
			}
			if l, err := listen(filepath.Join(t.TempDir(), "no", "such", "folder")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v, %v", l, err)
			}
		})
	}
}

// leave makes a socket that nobody listens on.
func leave(t *testing.T, path string, kind int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

func badPlace(t *testing.T, listen func(string) (*wire.Listener, error), path, want string) {
	t.Helper()
	var bad *wire.FolderError
	l, err := listen(path)
	if !errors.As(err, &bad) || bad.Fix() == "" || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, %v, want %q", l, err, want)
	}
}

func TestVDEFolders(t *testing.T) {
	listen := listeners["VDE"]
	t.Run("of somebody's files", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/letter", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		badPlace(t, listen, dir, "letter lies in it")
		checkMode(t, dir, 0o755|os.ModeDir)
	})
	t.Run("empty", func(t *testing.T) { // it was there before, and stays
		dir := t.TempDir()
		l, err := listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if got := ls(t, dir); got != "" {
			t.Errorf("in the folder lie %s", got)
		}
	})
	t.Run("a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := listen(file); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%v, %v", l, err)
		}
	})
	t.Run("a vde_switch's", func(t *testing.T) {
		dir, stop := vdeSwitch(t)
		var busy *wire.InUseError
		if l, err := listen(dir); !errors.As(err, &busy) {
			t.Errorf("%v, %v", l, err)
		}
		stop()
		l, err := listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
	t.Run("by a link", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink("real", dir+"/link"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir+"/real", 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := listen(dir + "/link")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.Path() != dir+"/real" {
			t.Errorf("it is at %s", l.Path())
		}
	})
}

// TestListenerFolder: a socket does not go where others could replace it.
func TestListenerFolder(t *testing.T) {
	dir := t.TempDir()
	for mode, ok := range map[os.FileMode]bool{0o700: true, 0o755: true, 0o777: false, 0o775: false, 0o777 | os.ModeSticky: true} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"stream", "bess"} {
			if !ok {
				badPlace(t, listeners[name], dir+"/s", "others may replace")
				continue
			}
			l, err := listeners[name](dir + "/s")
			if err != nil {
				t.Fatal(err)
			}
			checkMode(t, l.Path(), 0o600|os.ModeSocket)
			l.Close()
		}
	}
}

// TestBessPort is a client that this process dials in with.
func TestBessPort(t *testing.T) {
	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
		g := newGate()
		l, err := wire.ListenBess(filepath.Join(t.TempDir(), "s"), g.options(), g.accept)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		c, err := net.Dial("unixpacket", l.Path())
		if err != nil {
			t.Fatal(err)
		}
		file, err := c.(*net.UnixConn).File()
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		port, err := wire.NewFD(file)
		if err != nil {
			t.Fatal(err)
		}
		return port, g.next(t).port
	})
}

func TestStreamPort(t *testing.T) {
	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) {
		g := newGate()
		l, err := wire.ListenStream(filepath.Join(t.TempDir(), "s"), g.options(), g.accept)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		port, err := wire.DialStream(t.Context(), l.Path())
		if err != nil {
			t.Fatal(err)
		}
		return port, g.next(t).port
	})
}

// TestDialLongPath: what a program that was started in the folder listens on
// can be reached although its path is too long for an address.
func TestDialLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	leave(t, "dead", unix.SOCK_STREAM)
	ln, err := net.Listen("unix", "sock")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, err := wire.DialStream(t.Context(), filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for name, want := range map[string]string{"dead": "nobody listens there any more", "none": "no such file"} {
		if _, err := wire.DialStream(t.Context(), filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A vde_switch that was started there in the same way.
	if err := os.Mkdir("sw", 0o700); err != nil {
		t.Fatal(err)
	}
	ctl, err := net.Listen("unix", "sw/ctl")
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	go func() {
		c, err := ctl.Accept()
		if err == nil {
			_, _ = io.CopyN(io.Discard, c, 122)
			c.Close()
		}
	}()
	// The data socket finds no room in the folder and goes elsewhere.
	if _, err := wire.DialVDE(t.Context(), filepath.Join(dir, "sw"), wire.VDEOptions{}); err == nil || !strings.Contains(err.Error(), "gives no port") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/*/*/vde.%05d-*", os.Getpid())); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
