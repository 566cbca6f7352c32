package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"golang.org/x/sys/unix"

	"wolffia/internal/event"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/gateway"
	"wolffia/internal/vnet/wire"
)

// The tests run in a network namespace of their own, which plays the host: it
// has a loopback interface and a network 192.0.2.0/24 where .1 and
// 2001:db8:1::1 are the host's and nobody else is. Each guest is another
// namespace with an interface eth0, whose frames come here. No root is needed.

const (
	roleEnv   = "WOLFFIA_GATEWAY_TEST"
	roleHost  = "host"
	roleGuest = "guest"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleGuest:
		guestMain()
	case roleHost:
		hostSetup()
		os.Exit(m.Run())
	default:
		os.Exit(runInNamespace())
	}
}

// runInNamespace runs the tests in a child that is root in namespaces of its
// own, and gives its exit status.
func runInNamespace() int {
	attr := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	code, err := runSelf(attr)
	if err != nil && os.Getuid() == 0 { // no user namespaces, but no need of them either
		code, err = runSelf(&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	}
	if err != nil {
		fmt.Println("network namespaces can't be made here:", err)
		if os.Getenv("CI") == "true" {
			return 1
		}
		return 0
	}
	return code
}

func runSelf(attr *syscall.SysProcAttr) (int, error) {
	attr.Pdeathsig = syscall.SIGKILL
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleHost)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), nil
}

func hostSetup() {
	must := func(args string) {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			fmt.Printf("ip %s: %v\n%s(the tests need iproute2)\n", args, err, out)
			os.Exit(1)
		}
	}
	must("link set lo up")
	if _, err := net.InterfaceByName("host0"); err == nil {
		return // a fuzzing worker, in the namespace of its parent
	}
	must("link add host0 type bridge")
	must("addr add 192.0.2.1/24 dev host0")
	must("addr add 2001:db8:1::1/64 dev host0 nodad")
	must("link set host0 up")
	// Ranges that the host answers for as a whole, and as a router.
	must("route add local 198.51.100.0/24 dev lo")
	must("-6 route add local 2001:db8:77::/64 dev lo")
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// guestMain is a guest's namespace: it makes eth0, passes the other end of its
// cable to the parent, and waits for the parent to end.
func guestMain() {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
	vnetHdr := os.Getenv("WOLFFIA_GATEWAY_VNETHDR") != ""
	fd, err := guestPort(vnetHdr)
	if err != nil {
		fail(err)
	}
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(fd), nil, 0); err != nil {
		fail(err)
	}
	var b [1]byte
	_, _ = unix.Read(3, b[:])
	os.Exit(0)
}

// guestPort makes a tap.
func guestPort(vnetHdr bool) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("the tests need taps: open /dev/net/tun: %w; sudo chmod 0666 /dev/net/tun", err)
	}
	ifr, _ := unix.NewIfreq("eth0")
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if vnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// guest is a namespace with an interface eth0.
type guest struct {
	t    testing.TB
	pid  int
	port vnet.Port
	end  *os.File

	router int // of benchmarks: the process that routes, 0 for this one
}

func newGuest(t testing.TB, vnetHdr bool) *guest {
	t.Helper()
	tooltest.Require(t, "nsenter", "util-linux")
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "guest")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleGuest)
	if vnetHdr {
		cmd.Env = append(cmd.Env, "WOLFFIA_GATEWAY_VNETHDR=1")
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	g := &guest{t: t, pid: cmd.Process.Pid, end: os.NewFile(uintptr(fds[0]), "parent")}
	t.Cleanup(func() {
		g.end.Close()
		_ = cmd.Wait()
	})
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(fds[0], b[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || oobn == 0 {
		t.Fatalf("the guest's namespace could not be made: %v", err)
	}
	msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	rights, _ := unix.ParseUnixRights(&msgs[0])
	if g.port, err = wire.NewTap(os.NewFile(uintptr(rights[0]), "eth0"), vnetHdr); err != nil {
		t.Fatal(err)
	}
	return g
}

// command runs in the guest's network.
func (g *guest) command(ctx context.Context, args ...string) *exec.Cmd {
	g.t.Helper()
	tooltest.Require(g.t, args[0], pkgOf[args[0]])
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(g.pid), "-n", "--"}, args...)...)
	// A shell's children end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

var pkgOf = map[string]string{
	"busybox": "busybox", "ip": "iproute2", "ping": "iputils-ping", "curl": "curl",
	"dig": "bind9-dnsutils", "iperf3": "iperf3", "nc": "netcat-openbsd", "sh": "dash", "slirp4netns": "slirp4netns", "socat": "socat",
	"tftp": "tftp-hpa", "sha256sum": "coreutils",
}

// try runs a command in the guest and gives what it prints.
func (g *guest) try(args ...string) (string, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := g.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), err
}

// run is try for a command that must succeed.
func (g *guest) run(args ...string) string {
	g.t.Helper()
	out, err := g.try(args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// static gives eth0 fixed addresses, as a guest that has done DHCP has.
func (g *guest) static() {
	g.t.Helper()
	g.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra") // or it could be first with its route
	for _, c := range []string{
		"link set lo up", "link set eth0 up",
		"addr add 10.0.2.15/24 dev eth0", "route add default via 10.0.2.2",
		"addr add fd00:77:6f6c:66::15/64 dev eth0 nodad", "-6 route add default via fd00:77:6f6c:66::2",
	} {
		g.run(append([]string{"ip"}, strings.Fields(c)...)...)
	}
}

// network is one guest behind a gateway, by way of a switch.
type network struct {
	*guest
	gw     *gateway.Gateway
	sw     *vnet.Switch
	events chan event.Event
	taken  atomic.Uint64 // frames that the gateway has read
}

func newNetwork(t testing.TB, cfg gateway.Config) *network {
	t.Helper()
	return networkOf(t, newGuest(t, false), cfg)
}

// networkOf is the network of a guest.
func networkOf(t testing.TB, guest *guest, cfg gateway.Config) *network {
	t.Helper()
	n := &network{guest: guest, events: make(chan event.Event, 100)}
	n.sw = vnet.NewSwitch(vnet.SwitchOptions{})
	if _, err := n.sw.Attach(n.port, vnet.PortOptions{Name: "guest"}); err != nil {
		t.Fatal(err)
	}
	inside, err := n.sw.Plug(vnet.PortOptions{Name: "gateway", Offloads: true, Queue: gateway.PortQueue})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Events = event.Func(func(e event.Event) { n.events <- e })
	gw, err := gateway.New(counted{inside.(plugged), &n.taken}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.gw = gw
	t.Cleanup(func() {
		gw.Close()
		n.sw.Close()
	})
	return n
}

// newStatic is a network whose guest has its addresses.
func newStatic(t testing.TB, cfg gateway.Config) *network {
	n := newNetwork(t, cfg)
	n.static()
	return n
}

// listenTCP serves TCP connections of the host's until the test ends.
func listenTCP(t testing.TB, addr string, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
