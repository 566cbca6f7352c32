// Package supervisor owns what runs: it gives a machine its identity, starts
// it, joins its cards to networks and the networks to gateways, watches it come
// up, lets people in, and ends all of it.
//
// A [Session] is one throwaway machine, as `wolffia run` has it:
//
//	s, err := supervisor.Start(ctx, cfg)
//	defer s.Close()
//	err = s.Ready(ctx)
//
// Deliberately absent so far: labs of several machines in the background.
package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"wolffia/internal/access"
	"wolffia/internal/event"
	"wolffia/internal/image/cpio"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
	"wolffia/internal/vnet/gateway"
)

// Config is all that a session is made from.
type Config struct {
	Lab     *lab.Spec
	Machine *lab.Machine
	Arch    string // of the kernel and so of the machine, by Debian's name
	Backend machine.Backend
	Kernel  string // path of the kernel, of the kind the backend boots
	Image   string // path of the image, or of what finds it on a disk, as a cpio archive
	Disks   []machine.Disk
	// Firmware boots the first of Disks. Nothing is known of what is on it then:
	// it has no identity, can't be entered, and is ready at once.
	Firmware machine.Firmware
	Paused   bool     // the kernel waits for a debugger: see machine.GDBServer
	Cmdline  []string // kernel parameters, before the machine's own
	Modules  string   // path of a cpio archive with kernel modules; may be empty
	Console  rootfs.Console
	Term     string        // the kind of terminal that shows the console
	Dir      string        // existing private folder; the caller removes it
	Env      []string      // environment of the kernel's process
	Patience time.Duration // how long a machine that comes up may report nothing; 0 means [DefaultPatience]
	Events   event.Sink
}

// DefaultPatience is how long a machine that comes up may report no progress
// before it is given up.
const DefaultPatience = 60 * time.Second

// The link between wolffia and a machine, which belongs to no network.
var (
	controlHost  = netip.MustParsePrefix("169.254.77.1/30")
	controlGuest = netip.MustParsePrefix("169.254.77.2/30")
)

// doorOpens is how long the ssh server may take from its start to its first
// connection; in an emulated machine it is tenths of a second.
const doorOpens = 10 * time.Second

// sshPort is where the guest's dropbear listens on its control link.
const sshPort = 22

// cardName is what a machine calls its n-th network card.
func cardName(n int) string { return fmt.Sprintf("eth%d", n) }

// Session is one machine with its networks.
type Session struct {
	cfg     Config
	keys    access.Keys
	machine machine.Machine
	link    *gateway.Link
	nets    []*network
	boot    *boot
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	side    sync.WaitGroup // what goes on beside and ends with ctx
	once    sync.Once
}

// Start boots the machine. It returns when the kernel's process runs; [Session.Ready]
// waits for the rest. Ending ctx kills the machine.
func Start(ctx context.Context, cfg Config) (*Session, error) {
	keys, err := access.GenerateKeys(rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, keys: keys}
	spec, err := s.spec()
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	ctx = s.ctx
	// Making a router takes as long as making a process: side by side. A
	// forward that fails ends a kernel that has not come far.
	var opened error
	var networks sync.WaitGroup
	networks.Go(func() { opened = s.openNetworks() })
	s.machine, err = cfg.Backend.Start(ctx, spec)
	networks.Wait()
	if opened != nil {
		err = opened
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	if err := s.join(); err != nil {
		s.Close()
		return nil, err
	}
	s.boot = watch(s.machine, s.patience(), event.Or(cfg.Events), cfg.Machine.Name)
	if cfg.Firmware != machine.FirmwareNone {
		s.boot.take(stageReady, "")
	}
	return s, nil
}

func (s *Session) patience() time.Duration {
	if s.cfg.Patience > 0 {
		return s.cfg.Patience
	}
	return DefaultPatience
}

// Spec is what [Start] would start, for explain: the identity is written to
// cfg.Dir, with keys that let nobody in afterwards.
func Spec(cfg Config) (machine.Spec, error) {
	keys, err := access.GenerateKeys(rand.Reader)
	if err != nil {
		return machine.Spec{}, err
	}
	return (&Session{cfg: cfg, keys: keys}).spec()
}

// Standalone is the machine without what belongs to wolffia: its identity, and
// the link that wolffia comes in by. So a person can start it by hand.
func Standalone(cfg Config) machine.Spec { return (&Session{cfg: cfg}).standalone() }

func (s *Session) standalone() machine.Spec {
	m, c := s.cfg.Machine, s.cfg
	spec := machine.Spec{
		Name: m.Name, Arch: c.Arch, Memory: int64(m.Memory), Firmware: c.Firmware, Kernel: c.Kernel, Cmdline: slices.Concat(c.Cmdline, m.Cmdline),
		Disks: c.Disks, Dir: c.Dir, Env: c.Env, Paused: c.Paused,
	}
	if c.Image != "" {
		spec.Initramfs = append(spec.Initramfs, c.Image)
	}
	if c.Modules != "" {
		spec.Initramfs = append(spec.Initramfs, c.Modules)
	}
	for _, name := range m.Networks {
		spec.NICs = append(spec.NICs, machine.NIC{MAC: s.mac(name), MTU: c.Lab.Networks[name].MTU})
	}
	return spec
}

// spec writes the machine's identity and describes it to the backend.
func (s *Session) spec() (machine.Spec, error) {
	if s.cfg.Firmware != machine.FirmwareNone {
		return s.standalone(), nil
	}
	identity, err := s.identity()
	if err != nil {
		return machine.Spec{}, err
	}
	spec := s.standalone()
	spec.Initramfs = append(spec.Initramfs, identity)
	spec.NICs = append(spec.NICs, machine.NIC{MAC: s.controlMAC(), MTU: lab.MaxMTU})
	return spec, nil
}

func (s *Session) mac(network string) net.HardwareAddr {
	return lab.MAC(s.cfg.Lab.Name, s.cfg.Machine.Name, network)
}

func (s *Session) controlMAC() net.HardwareAddr {
	return lab.ControlMAC(s.cfg.Lab.Name, s.cfg.Machine.Name)
}

// identity writes the archive that makes this machine of the image, and gives
// its path. It holds keys: only the person may read it.
func (s *Session) identity() (string, error) {
	m, c := s.cfg.Machine, s.cfg
	authorized, err := s.keys.AuthorizedKey()
	if err != nil {
		return "", err
	}
	guest := c.Backend.Guest(c.Arch)
	id := rootfs.IdentityConfig{
		Hostname: m.Name, Console: c.Console, Term: c.Term,
		ControlMAC: s.controlMAC(), ControlAddr: controlGuest,
		HostKey: s.keys.Host, AuthorizedKeys: []string{authorized[:len(authorized)-1]},
		Status: guest.Status, ConsoleDevice: strings.TrimPrefix(guest.Console, "/dev/"), Seed: make([]byte, 64),
	}
	if _, err := rand.Read(id.Seed); err != nil {
		return "", fmt.Errorf("make a seed: %w", err)
	}
	for i, name := range m.Networks {
		n := c.Lab.Networks[name]
		id.V6 = id.V6 || !n.NoGateway
		nic := rootfs.NIC{Name: cardName(i), MAC: s.mac(name), DHCP: !n.NoGateway && !n.NoDHCP}
		if nic.DHCP && c.Console == rootfs.ConsoleNone {
			s.lease(&id, &nic, n)
		}
		id.NICs = append(id.NICs, nic)
	}
	t, err := rootfs.Identity(id)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.Dir, "identity.cpio")
	return path, writePrivate(path, t)
}

// lease gives a card what its network's gateway would lease to it. A machine
// that runs one command need not ask: a tenth of its time would go to udhcpc.
func (s *Session) lease(id *rootfs.IdentityConfig, nic *rootfs.NIC, n *lab.Network) {
	cfg := s.gatewayConfig(n, false)
	nic.DHCP, nic.Addrs = false, []netip.Prefix{netip.PrefixFrom(cfg.FirstLease(), n.Subnet.Bits())}
	if len(id.DNS) == 0 { // the first network's, as with leases
		nic.Gateways, id.DNS, id.Search = []netip.Addr{cfg.Gateway()}, []netip.Addr{cfg.DNS()}, gateway.DefaultDomain
	}
}

func writePrivate(path string, t *tree.Tree) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write the machine's identity: %w", err)
	}
	if err := errors.Join(cpio.Write(f, t, cpio.Options{}), f.Close()); err != nil {
		return fmt.Errorf("write the machine's identity: %w", err)
	}
	return nil
}

// join plugs the machine's cards in.
func (s *Session) join() error {
	ports := s.machine.Ports()
	for i, n := range s.nets {
		if err := n.attach(ports[i], s.cfg.Machine.Name+"/"+cardName(i)); err != nil {
			return err
		}
	}
	if s.cfg.Firmware != machine.FirmwareNone {
		return nil
	}
	link, err := gateway.NewLink(ports[len(ports)-1], gateway.LinkConfig{
		Local: controlHost, Peer: controlGuest.Addr(), PeerMAC: s.controlMAC(), MTU: lab.MaxMTU,
	})
	if err != nil {
		return fmt.Errorf("open the machine's control link: %w", err)
	}
	s.link = link
	return nil
}

// Machine is the running machine.
func (s *Session) Machine() machine.Machine { return s.machine }

// Name is the machine's name.
func (s *Session) Name() string { return s.cfg.Machine.Name }

// Ready waits until the guest's init says that all is up. The error of a
// machine that does not get there is a [*machine.StartError], and the machine
// has ended then.
func (s *Session) Ready(ctx context.Context) error { return s.boot.wait(ctx, stageReady) }

// Dial waits until the guest can be entered, and enters it as root.
func (s *Session) Dial(ctx context.Context) (*access.Client, error) {
	if err := s.boot.wait(ctx, stageAccess); err != nil {
		return nil, err
	}
	// A guest that dies, or that says it can be entered and then does not
	// answer, must not hold us.
	dialing, cancel := context.WithTimeout(ctx, s.patience())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-s.Over():
			cancel()
		case <-dialing.Done():
		}
	})
	client, err := s.enter(dialing)
	if _, ended := s.Ended(); err != nil && ended {
		return nil, s.boot.report()
	}
	if err != nil && ctx.Err() == nil {
		return nil, s.boot.shut(err)
	}
	return client, err
}

// enter connects to the guest and logs in.
func (s *Session) enter(ctx context.Context) (*access.Client, error) {
	conn, err := s.knock(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the machine: %w", err)
	}
	return access.Dial(ctx, conn, "root", s.keys)
}

// knock connects to the guest's ssh server, which init has started but not
// waited for. A guest refuses what nobody listens for.
func (s *Session) knock(ctx context.Context) (net.Conn, error) {
	giveUp := time.Now().Add(doorOpens)
	for {
		conn, err := s.link.DialContext(ctx, "tcp", netip.AddrPortFrom(controlGuest.Addr(), sshPort).String())
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(giveUp) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// Ended says whether the machine has ended, and how.
func (s *Session) Ended() (machine.Exit, bool) { return s.boot.ended() }

// Over is closed when the machine has ended.
func (s *Session) Over() <-chan struct{} { return s.boot.over }

// Wait waits for the machine's end.
func (s *Session) Wait() machine.Exit { return s.machine.Wait() }

// Close kills the machine, if it still runs, and frees everything. It may be
// called more than once.
func (s *Session) Close() {
	s.once.Do(func() {
		s.cancel() // which kills the machine, too
		if s.machine != nil {
			s.machine.Kill()
			s.machine.Wait()
		}
		if s.boot != nil {
			s.boot.close()
		}
		if s.link != nil {
			s.link.Close()
		}
		for _, n := range s.nets {
			n.close()
		}
		s.side.Wait()
	})
}
