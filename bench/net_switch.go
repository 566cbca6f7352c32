package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"wolffia/internal/schedule"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// These compare switches: wolffia's, as others plug into it by VDE's protocol,
// and vde_switch, each a process of its own, with the same clients.

// switchFrames is the switches alone.
func switchFrames(ctx context.Context, b *bench) (*result, error) {
	r := &result{notes: []string{"one program writes frames as fast as it may, another counts what arrives; both speak VDE's protocol"}}
	for _, size := range []int{64, 1514} {
		x, err := b.alternate(ctx, b.frames(ourSwitch, size), b.frames(stockSwitch, size))
		if err != nil {
			return r, err
		}
		r.switched(fmt.Sprintf("frames of %d bytes", size), "million/s", x)
	}
	return r, nil
}

// switchTCP is TCP between two kernels.
func switchTCP(ctx context.Context, b *bench) (*result, error) {
	r := &result{notes: []string{"iperf3 in two network namespaces, each with a tap that vde_plug2tap carries to the switch and back"}}
	x, err := b.alternate(ctx, b.between(ourSwitch), b.between(stockSwitch), b.between(noSwitch))
	if err != nil {
		return r, err
	}
	ours, stock := x[0][2], x[1][2]
	r.switched("namespace to namespace", gigabits, [][][]float64{x[0][:2], x[1][:2], x[2][:2]})
	r.rows = append(r.rows, row{what: "the switch's share of the processors", unit: percent, wolffia: ours, against: "vde_switch", other: stock})
	return r, nil
}

// switchQEMU has an emulated PC on one side.
func switchQEMU(ctx context.Context, b *bench) (*result, error) {
	r := &result{notes: []string{"iperf3 in an emulated PC with `-netdev vde`, and in a namespace with a tap and vde_plug2tap"}}
	pc, err := b.newPC(ctx)
	if err != nil {
		return r, err
	}
	x, err := b.alternate(ctx, b.emulated(ourSwitch, pc), b.emulated(stockSwitch, pc), b.emulated(noSwitch, pc))
	if err == nil {
		r.switched("QEMU to namespace", gigabits, x)
	}
	return r, err
}

const switchGoal = "at least 1.5 x"

// switched adds a row for each number of two sides, and tells what a third one, the
// clients without a switch, is against the second.
func (r *result) switched(what, unit string, x [][][]float64) {
	for i, dir := range []string{"", ", back"}[:len(x[0])] {
		r.rows = append(r.rows, row{
			what: what + dir, unit: unit, wolffia: x[0][i], against: "vde_switch", other: x[1][i],
			goal: switchGoal, met: ratioOf(x[0][i], x[1][i]) >= 1.5,
		})
		if len(x) > 2 {
			r.notes = append(r.notes, fmt.Sprintf("%s: the two clients joined to each other, without any switch, have %s %s, %.2f times as much as with vde_switch",
				what+dir, spread(x[2][i]), unit, ratioOf(x[2][i], x[1][i])))
		}
	}
}

// switchProgram starts a switch that answers at a path.
type switchProgram func(ctx context.Context, path string) *exec.Cmd

func ourSwitch(ctx context.Context, path string) *exec.Cmd {
	return exec.CommandContext(ctx, "/proc/self/exe", roleSwitch, path)
}

func stockSwitch(ctx context.Context, path string) *exec.Cmd {
	return exec.CommandContext(ctx, "vde_switch", "-s", path, "-f", os.DevNull)
}

// noSwitch joins two clients to each other: what they send, the other one gets from
// them, and no program is between. No switch that moves frame by frame is faster.
func noSwitch(ctx context.Context, path string) *exec.Cmd {
	return exec.CommandContext(ctx, "/proc/self/exe", roleJoin, path)
}

// Words by which this program starts itself, for what has to be a process of its
// own.
const (
	roleSwitch  = "vde-switch"
	roleJoin    = "vde-join"
	roleSend    = "vde-send"
	roleCount   = "vde-count"
	roleOldHost = "old-host"
)

// role is what this program does when it was started by itself.
func role(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == roleSwitch:
		return serveSwitch(ctx, args[1])
	case len(args) == 2 && args[0] == roleJoin:
		return joinClients(ctx, args[1])
	case len(args) == 3 && args[0] == roleSend:
		return sendFrames(ctx, args[1], args[2])
	case len(args) == 3 && args[0] == roleCount:
		return countFrames(ctx, args[1], args[2])
	case len(args) > 1 && args[0] == roleOldHost:
		return runOnOldHost(args[1:])
	}
	return fmt.Errorf("%s wants other arguments", args[0])
}

func isRole(word string) bool {
	return word == roleSwitch || word == roleJoin || word == roleSend || word == roleCount || word == roleOldHost
}

// serveSwitch is wolffia's switch, until ctx or its input ends.
func serveSwitch(ctx context.Context, path string) error {
	schedule.Batch() // as for a network of a lab
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	defer sw.Close()
	l, err := wire.ServeVDE(path, wire.ListenOptions{}, func(p wire.Peer, port vnet.Port) error {
		_, err := sw.Attach(port, vnet.PortOptions{Name: p.Name})
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	return untilEOF(ctx)
}

// joinClients answers the first two clients of a path as a vde_switch does, but each
// with the other's socket instead of one of its own.
func joinClients(ctx context.Context, path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(path, "ctl"))
	if err != nil {
		return err
	}
	var conns []net.Conn // open until the end, which the clients take for the switch's
	ended := make(chan error, 1)
	go func() {
		var err error
		conns, err = joinTwo(l, path)
		ended <- err
	}()
	if err := untilEOF(ctx); err != nil {
		return err
	}
	l.Close()
	err = <-ended
	for _, c := range conns {
		c.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		err = nil // there were fewer than two
	}
	return err
}

func joinTwo(l net.Listener, path string) (conns []net.Conn, err error) {
	// The request of VDE's protocol, version 3: twelve bytes, then the client's
	// socket, a struct sockaddr_un.
	const before, family, name = 12, 2, 108
	for len(conns) < 2 {
		c, err := l.Accept()
		if err != nil {
			return conns, err
		}
		request := make([]byte, before+family+name)
		if _, err := io.ReadFull(c, request); err != nil {
			c.Close() // somebody looked whether anybody answers
			continue
		}
		conns = append(conns, c)
		// A client that has an answer removes its socket's name: here is another one.
		socket, _, _ := strings.Cut(string(request[before+family:]), "\x00")
		if err := os.Link(socket, filepath.Join(path, strconv.Itoa(len(conns)))); err != nil {
			return conns, err
		}
	}
	for i, c := range conns {
		answer := make([]byte, family+name)
		binary.NativeEndian.PutUint16(answer, syscall.AF_UNIX)
		copy(answer[family:], filepath.Join(path, strconv.Itoa(len(conns)-i)))
		if _, err := c.Write(answer); err != nil {
			return conns, err
		}
	}
	return conns, nil
}

// untilEOF waits for the end of who started this program.
func untilEOF(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	return nil
}

// Addresses of the two that exchange frames.
var (
	sender  = [6]byte{2, 0, 0, 0, 0, 1}
	counter = [6]byte{2, 0, 0, 0, 0, 2}
)

func frameOf(dst, src [6]byte, size int) []byte {
	f := make([]byte, size)
	copy(f, dst[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], 0x88b5) // for experiments (IEEE 802)
	return f
}

// sendFrames writes frames until it is ended.
func sendFrames(ctx context.Context, path, size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	plug, err := wire.DialVDE(ctx, path, wire.VDEOptions{})
	if err != nil {
		return err
	}
	frames := make([]vnet.Frame, 64)
	for i := range frames {
		frames[i].Data = frameOf(counter, sender, n)
	}
	stop := context.AfterFunc(ctx, func() { plug.Close() })
	defer stop()
	for {
		if _, err := plug.WriteFrames(frames); err != nil {
			return nil
		}
	}
}

// countFrames says how many frames arrive in so many seconds, after one in which
// it does not count.
func countFrames(ctx context.Context, path, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	plug, err := wire.DialVDE(ctx, path, wire.VDEOptions{})
	if err != nil {
		return err
	}
	defer plug.Close()
	// The switch learns where we are.
	if _, err := plug.WriteFrames([]vnet.Frame{{Data: frameOf(sender, counter, 60)}}); err != nil {
		return err
	}
	fmt.Println("ready")
	frames := vnet.NewBatch(64, vnet.MaxFrame)
	var began time.Time
	for count := 0; ; {
		got, err := plug.ReadFrames(frames)
		if err != nil {
			return err
		}
		now := time.Now()
		if began.IsZero() {
			began = now.Add(time.Second)
		}
		if now.Before(began) {
			continue
		}
		count += got
		if took := now.Sub(began); took >= time.Duration(n)*time.Second {
			fmt.Println(float64(count) / took.Seconds() / 1e6)
			return nil
		}
	}
}

// running is a program that was started; stop ends it.
type running struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Scanner
}

// launch starts a program in a namespace, if one is given.
func launch(n *netns, cmd *exec.Cmd) (*running, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := cmd.Start
	if n != nil {
		start = func() error { return n.do(cmd.Start) }
	}
	return &running{cmd, in, bufio.NewScanner(out)}, start()
}

// stop ends a program by the end of its input, or else by a signal.
func (r *running) stop() {
	r.in.Close()
	hurry := time.AfterFunc(time.Second, func() { _ = r.cmd.Process.Signal(os.Interrupt) })
	_ = r.cmd.Wait() // it was told to end
	hurry.Stop()
	if os.Getenv("BENCH_CPU") != "" {
		fmt.Fprintln(os.Stderr, r.cmd.Args[:2], r.cmd.ProcessState.UserTime(), r.cmd.ProcessState.SystemTime())
	}
}

// line waits for a line of output.
func (r *running) line() (string, error) {
	if !r.out.Scan() {
		return "", fmt.Errorf("%s ended", strings.Join(r.cmd.Args, " "))
	}
	return r.out.Text(), nil
}

// startSwitch runs a switch, and waits until it answers.
func (b *bench) startSwitch(ctx context.Context, program switchProgram) (path string, sw *running, err error) {
	dir, err := os.MkdirTemp(b.dir, "vde-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "s")
	sw, err = launch(nil, program(ctx, path))
	if err != nil {
		return "", nil, err
	}
	go func() { // vde_switch greets
		for sw.out.Scan() {
		}
	}()
	const patience = 10 * time.Second
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", filepath.Join(path, "ctl")); err == nil {
			c.Close()
			return path, sw, nil
		}
	}
	sw.stop()
	return "", nil, fmt.Errorf("%s does not answer", sw.cmd.Args[0])
}

// frames measures frames alone.
func (b *bench) frames(program switchProgram, size int) sampler {
	return func(ctx context.Context) ([]float64, error) {
		path, sw, err := b.startSwitch(ctx, program)
		if err != nil {
			return nil, err
		}
		defer sw.stop()
		count, err := launch(nil, exec.CommandContext(ctx, "/proc/self/exe", roleCount, path, strconv.Itoa(b.seconds)))
		if err != nil {
			return nil, err
		}
		defer count.stop()
		if _, err := count.line(); err != nil {
			return nil, err
		}
		send, err := launch(nil, exec.CommandContext(ctx, "/proc/self/exe", roleSend, path, strconv.Itoa(size)))
		if err != nil {
			return nil, err
		}
		defer send.stop()
		text, err := count.line()
		if err != nil {
			return nil, err
		}
		rate, err := strconv.ParseFloat(text, 64)
		return []float64{rate}, err
	}
}

// plugNamespace is a namespace whose tap0 is on a switch, with an address if one
// is given.
func plugNamespace(ctx context.Context, path, addr string) (*netns, func(), error) {
	n, err := newNetns()
	if err != nil {
		return nil, nil, err
	}
	setUp := []string{"tuntap add tap0 mode tap", "link set tap0 up"}
	if addr != "" {
		setUp = append(setUp, "addr add "+addr+"/24 dev tap0")
	}
	if err := n.ip(setUp...); err != nil {
		n.close()
		return nil, nil, err
	}
	tap, err := launch(n, exec.CommandContext(ctx, "vde_plug2tap", "-s", path, "tap0"))
	if err != nil {
		n.close()
		return nil, nil, err
	}
	return n, func() { tap.stop(); n.close() }, nil
}

// iperfServerIn serves one client after the other in a namespace.
func (b *bench) iperfServerIn(ctx context.Context, n *netns) (stop func(), err error) {
	s, err := launch(n, exec.CommandContext(ctx, "iperf3", "-s", "-p", iperfPort, "--forceflush"))
	if err != nil {
		return nil, err
	}
	for {
		text, err := s.line()
		if err != nil {
			s.stop()
			return nil, err
		}
		if strings.Contains(text, "listening on") {
			go func() {
				for s.out.Scan() { // ends with the server
				}
			}()
			return s.stop, nil
		}
	}
}

// iperfPort is that of a server in a namespace of its own.
const iperfPort = "5201"

// between measures TCP between two namespaces, and the share of the processors
// that the switch takes meanwhile, in percent.
func (b *bench) between(program switchProgram) sampler {
	return b.withServer(program, func(ctx context.Context, path string, sw *exec.Cmd) ([]float64, error) {
		near, stop, err := plugNamespace(ctx, path, guestAddr)
		if err != nil {
			return nil, err
		}
		defer stop()
		began, before := time.Now(), treeCPU(sw.Process.Pid)
		rates, err := b.iperfIn(near, iperfPort)(ctx)
		if err != nil {
			return nil, err
		}
		used, all := treeCPU(sw.Process.Pid)-before, time.Since(began)*time.Duration(runtime.NumCPU())
		return append(rates, 100*float64(used)/float64(all)), nil
	})
}

// emulated measures TCP between an emulated PC and a namespace.
func (b *bench) emulated(program switchProgram, p *pc) sampler {
	return b.withServer(program, func(ctx context.Context, path string, _ *exec.Cmd) ([]float64, error) {
		return b.qemu(ctx, p, iperfPort, nil, "vde,id=n0,sock="+path)
	})
}

// withServer measures on a switch, at path, that has a namespace with a server.
func (b *bench) withServer(program switchProgram, measure func(ctx context.Context, path string, sw *exec.Cmd) ([]float64, error)) sampler {
	return func(ctx context.Context) ([]float64, error) {
		path, sw, err := b.startSwitch(ctx, program)
		if err != nil {
			return nil, err
		}
		defer sw.stop()
		far, stopFar, err := plugNamespace(ctx, path, hostAtGW)
		if err != nil {
			return nil, err
		}
		defer stopFar()
		stopServer, err := b.iperfServerIn(ctx, far)
		if err != nil {
			return nil, err
		}
		defer stopServer()
		return measure(ctx, path, sw.cmd)
	}
}
