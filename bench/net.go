package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/gateway"
)

// Packet sizes that networks are measured with, in bytes of IP packet.
const (
	smallMTU  = 1500
	largeMTU  = 65520 // the most that slirp4netns and its users take
	jumboMTU  = 32000 // the most that a User-Mode Linux guest on slirp4netns gets any data with
	labMTU    = 65000 // the most that wolffia.yaml takes
	hostAtGW  = "10.0.2.2"
	guestAddr = "10.0.2.100" // slirp4netns' own choice
)

// rates turns measurements of [up, down] into two rows.
func (r *result) rates(what string, ours [][]float64, against string, other [][]float64) {
	for i, dir := range []string{"up", "down"} {
		goal := "at least equal"
		if median(other[i]) == 0 { // it does not run there: nothing to compare
			goal = ""
		}
		r.rows = append(r.rows, row{
			what: what + ", " + dir, unit: gigabits, wolffia: ours[i], against: against, other: other[i],
			goal: goal, met: ratioOf(ours[i], other[i]) >= 1,
		})
	}
}

// iperfServer serves on the host's loopback until ctx ends, and gives its port.
func (b *bench) iperfServer(ctx context.Context) (port string, stop func(), err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := exec.CommandContext(ctx, "iperf3", "-s", "-B", "127.0.0.1", "-p", port, "--forceflush")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "listening on") {
			go func() {
				for lines.Scan() { // ends with the server
				}
			}()
			return port, stop, nil
		}
	}
	stop()
	return "", nil, errors.New("iperf3 -s does not listen")
}

// iperfArgs is a client's command; a download is the server sending.
func (b *bench) iperfArgs(port string, down bool) []string {
	args := []string{"iperf3", "-c", hostAtGW, "-p", port, "-t", strconv.Itoa(b.seconds), "-J"}
	if down {
		args = append(args, "-R")
	}
	return args
}

// iperfScript runs both directions in a guest's shell. The server has time for
// one client, and some routers are slow to tell it that the last one has gone.
func (b *bench) iperfScript(port string) string {
	script := ""
	for _, down := range []bool{false, true} {
		script += "for i in 1 2 3 4 5; do " + strings.Join(b.iperfArgs(port, down), " ") + " >/tmp/report && break; sleep 1; done; cat /tmp/report; "
	}
	return script
}

// parseRates reads what clients have written, one JSON object each, in Gbit/s. With
// an error it gives those before it.
func parseRates(out []byte, want int) ([]float64, error) {
	var rates []float64
	for d := json.NewDecoder(bytes.NewReader(out)); len(rates) < want; {
		var report struct {
			Error string
			End   struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			}
		}
		if err := d.Decode(&report); err != nil {
			return rates, fmt.Errorf("read iperf3's report: %w\n%s", err, out[:min(len(out), 500)])
		}
		if report.Error != "" {
			return rates, fmt.Errorf("iperf3: %s", report.Error)
		}
		rates = append(rates, report.End.Received.Rate/1e9)
	}
	return rates, nil
}

// netns is a network namespace. It lasts until close, and as long as what was
// started or opened in it.
type netns struct {
	calls chan func()
	path  string // for other programs
}

func newNetns() (*netns, error) {
	n := &netns{calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return n, n.ip("link set lo up")
}

// do runs f on a thread in the namespace; processes that f starts are in it.
func (n *netns) do(f func() error) error {
	done := make(chan error)
	n.calls <- func() { done <- f() }
	return <-done
}

func (n *netns) close() { close(n.calls) }

// ip calls ip(8) in the namespace, for each of the commands.
func (n *netns) ip(commands ...string) error {
	return n.do(func() error {
		for _, c := range commands {
			if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", c, err, bytes.TrimSpace(out))
			}
		}
		return nil
	})
}

// slirp runs slirp4netns on a tap called tap0 in the namespace, until stop.
func (n *netns) slirp(ctx context.Context, mtu int, flags ...string) (stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	args := append([]string{"--ready-fd=3", "--mtu=" + strconv.Itoa(mtu), "--netns-type=path"}, flags...)
	cmd := exec.CommandContext(ctx, "slirp4netns", append(args, n.path, "tap0")...)
	cmd.ExtraFiles = []*os.File{w}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	if _, err := r.Read(make([]byte, 1)); err != nil {
		stop()
		return nil, fmt.Errorf("slirp4netns did not start: %s", tail(out.String(), 5))
	}
	return stop, nil
}

// pasta runs passt on a tap called tap0 in the namespace, until stop; with
// configure it gives the tap its address.
func (n *netns) pasta(ctx context.Context, mtu int, configure bool) (stop func(), err error) {
	// It gives up the right to look into our process before it needs it.
	ns, err := os.Open(n.path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	args := append([]string{"-I", "tap0", "--netns", "/proc/self/fd/3", "-t", "none", "-u", "none", "-T", "none", "-U", "none"}, passtArgs(mtu)...)
	if configure {
		args = append(args, "--config-net")
	}
	cmd := exec.CommandContext(ctx, "pasta", args...)
	cmd.ExtraFiles = []*os.File{ns}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	for range 500 {
		if n.ip("link set tap0 up") == nil {
			return stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return nil, fmt.Errorf("passt did not start: %s", tail(out.String(), 5))
}

// passtArgs gives passt's guest the addresses that the others' have. Its gateway
// is the host, too.
func passtArgs(mtu int) []string {
	return []string{"-f", "-q", "--runas", "0:0", "-a", guestAddr, "-n", "24", "-g", hostAtGW, "-m", strconv.Itoa(mtu)}
}

// router is wolffia's switch with a gateway, as a lab has it.
func router(port vnet.Port, mtu int) (stop func(), err error) {
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	if _, err := sw.Attach(port, vnet.PortOptions{Name: "guest"}); err != nil {
		sw.Close()
		return nil, err
	}
	inside, err := sw.Plug(vnet.PortOptions{Name: "gateway", Offloads: true, Queue: gateway.PortQueue})
	if err != nil {
		sw.Close()
		return nil, err
	}
	gw, err := gateway.New(inside, gateway.Config{MTU: mtu})
	if err != nil {
		sw.Close()
		return nil, err
	}
	return func() { gw.Close(); sw.Close() }, nil
}

// asRoot runs the named benchmark again in a user namespace of its own when
// this process may not make network namespaces: in it, everybody may.
func asRoot(f func(context.Context, *bench) (*result, error), name string) func(context.Context, *bench) (*result, error) {
	return func(ctx context.Context, b *bench) (*result, error) {
		if os.Geteuid() == 0 {
			return f(ctx, b)
		}
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "-n", strconv.Itoa(b.n), "-seconds", strconv.Itoa(b.seconds),
			"-wolffia", b.wolffia, "-inner", name)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 5 * time.Second
		return nil, cmd.Run()
	}
}
