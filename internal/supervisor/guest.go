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

	"golang.org/x/sys/unix"

	"wolffia/internal/access"
	"wolffia/internal/event"
	"wolffia/internal/image/cpio"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
	"wolffia/internal/vnet/gateway"
)

// Config is all that one machine is started from.
type Config struct {
	Lab     *lab.Spec
	Machine *lab.Machine
	Arch    string // of the kernel and so of the machine, by Debian's name
	Backend machine.Backend
	Kernel  string // path of the kernel, of the kind the backend boots
	Image   string // path of the image, or of what finds it on a disk, as a cpio archive
	Disks   []machine.Disk
	Mounts  []rootfs.Mount // disks of these that its init mounts
	// Firmware boots the first of Disks. Nothing is known of what is on it then:
	// it has no identity, can't be entered, and is ready at once.
	Firmware machine.Firmware
	Paused   bool     // the kernel waits for a debugger: see machine.GDBServer
	Cmdline  []string // kernel parameters, before the machine's own
	Modules  string   // path of a cpio archive with kernel modules; may be empty
	Base     string   // folders of the file that are relative start here
	Console  rootfs.Console
	// Throwaway is a machine that nobody restarts, and that need not ask for an
	// address that is known beforehand.
	Throwaway bool
	// Direct has the guest talk to us over channels ([machine.Channeler]) in the place
	// of a control link: it can't be entered then, only its console has its size. The
	// kernel has to have what the backend's Guest.Channel names.
	Direct bool
	// Command is run by init, once, with Direct; nil for none. Whether it has Stdin
	// counts, not what there is to read.
	Command  *access.Command
	Term     string        // the kind of terminal that shows the console
	Dir      string        // existing private folder; the caller removes it
	Env      []string      // environment of the kernel's process
	CPU      *int          // see [machine.Spec]
	Patience time.Duration // how long a machine that comes up may report nothing; 0 means [DefaultPatience]
	Events   event.Sink

	plan *plan // of the lab that the machine is part of; nil for one by itself
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

// shareTag is what a machine's n-th shared folder is called between its backend
// and its init.
func shareTag(n int) string { return fmt.Sprintf("share%d", n) }

// under is a path that starts at base, unless it is absolute.
func under(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

// Guest is one machine that was started, from its first instruction to its end.
type Guest struct {
	cfg     Config
	keys    access.Keys
	machine machine.Machine
	link    *gateway.Link
	direct  *access.Direct // nil without Config.Direct
	end     string         // what comes behind the last that Config.Command writes
	boot    *boot
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	side    sync.WaitGroup // what goes on beside and ends with ctx
	once    sync.Once
}

// startGuest starts the machine's kernel, and plugs its cards into the networks
// that open gives. The two take as long as each other, and go side by side.
// Ending ctx kills the machine.
func startGuest(ctx context.Context, cfg Config, open func() (networks, error)) (*Guest, error) {
	keys, err := access.GenerateKeys(rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &Guest{cfg: cfg, keys: keys}
	spec, err := s.spec()
	if err != nil {
		return nil, noRoom(cfg, err)
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	var nets networks
	var opened error
	var opening sync.WaitGroup
	opening.Go(func() { nets, opened = open() })
	s.machine, err = cfg.Backend.Start(s.ctx, spec)
	err = noRoom(cfg, err)
	opening.Wait()
	if opened != nil {
		err = opened
	}
	if err == nil {
		err = s.join(nets)
	}
	if cfg.Direct && s.machine != nil {
		s.direct = access.NewDirect(s.machine.(machine.Channeler).Channels(), s.end)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.boot = watch(s.machine, s.patience(), event.Or(cfg.Events), cfg.Machine.Name)
	if cfg.Firmware != machine.FirmwareNone {
		s.boot.take(stageReady, "")
	}
	return s, nil
}

// noRoom says of a machine that could not start because a disk is full what helps.
func noRoom(cfg Config, err error) error {
	if !errors.Is(err, unix.ENOSPC) || errors.As(err, new(*machine.StartError)) {
		return err
	}
	return &machine.StartError{
		Machine: cfg.Machine.Name, Stage: "start", Cause: "it could not be started", Err: err,
		Fix: "make room where " + cfg.Dir + " is, or set XDG_RUNTIME_DIR or TMPDIR to a folder with more",
	}
}

func (s *Guest) patience() time.Duration {
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
	return (&Guest{cfg: cfg, keys: keys}).spec()
}

// Standalone is the machine without what belongs to wolffia: its identity, and
// the link that wolffia comes in by. So a person can start it by hand.
func Standalone(cfg Config) machine.Spec { return (&Guest{cfg: cfg}).standalone() }

func (s *Guest) standalone() machine.Spec {
	m, c := s.cfg.Machine, s.cfg
	spec := machine.Spec{
		Name: m.Name, Arch: c.Arch, Memory: int64(m.Memory), Firmware: c.Firmware, Kernel: c.Kernel, Cmdline: slices.Concat(c.Cmdline, m.Cmdline),
		Disks: c.Disks, Dir: c.Dir, Env: c.Env, Paused: c.Paused, CPU: c.CPU,
	}
	if c.Image != "" {
		spec.Initramfs = append(spec.Initramfs, c.Image)
	}
	if c.Modules != "" {
		spec.Initramfs = append(spec.Initramfs, c.Modules)
	}
	for i := range m.Cards {
		card := &m.Cards[i]
		spec.NICs = append(spec.NICs, machine.NIC{MAC: c.Lab.CardMAC(m, card), MTU: c.Lab.Networks[card.Network].MTU})
	}
	for i, x := range m.Shares {
		spec.Shares = append(spec.Shares, machine.Share{Tag: shareTag(i), Path: under(c.Base, x.From), ReadOnly: x.ReadOnly})
	}
	return spec
}

// spec writes the machine's identity and describes it to the backend.
func (s *Guest) spec() (machine.Spec, error) {
	if s.cfg.Firmware != machine.FirmwareNone {
		return s.standalone(), nil
	}
	identity, err := s.identity()
	if err != nil {
		return machine.Spec{}, err
	}
	spec := s.standalone()
	spec.Initramfs = append(spec.Initramfs, identity)
	if s.cfg.Direct {
		spec.Channels = access.DirectChannels(s.cfg.Command)
		return spec, nil
	}
	spec.NICs = append(spec.NICs, machine.NIC{MAC: s.controlMAC(), MTU: lab.MaxMTU})
	return spec, nil
}

func (s *Guest) controlMAC() net.HardwareAddr {
	return lab.ControlMAC(s.cfg.Lab.Name, s.cfg.Machine.Name)
}

// identity writes the archive that makes this machine of the image, and gives
// its path. It holds keys: only the person may read it.
func (s *Guest) identity() (string, error) {
	m, c := s.cfg.Machine, s.cfg
	guest := c.Backend.Guest(c.Arch)
	id := rootfs.IdentityConfig{
		Hostname: m.Name, Console: c.Console, Throwaway: c.Throwaway, Term: c.Term,
		Status: guest.Status, ConsoleDevice: strings.TrimPrefix(guest.Console, "/dev/"), Seed: make([]byte, 64),
	}
	if _, err := rand.Read(id.Seed); err != nil {
		return "", fmt.Errorf("make a seed: %w", err)
	}
	if err := s.wayIn(&id); err != nil {
		return "", err
	}
	s.network(&id)
	id.Mounts = slices.Clone(c.Mounts)
	for i, x := range m.Shares {
		id.Mounts = append(id.Mounts, rootfs.Mount{
			What: shareTag(i), Type: guest.Share.Type, To: x.To, Options: guest.Share.Options(shareTag(i)), ReadOnly: x.ReadOnly,
		})
	}
	slices.SortStableFunc(id.Mounts, func(a, b rootfs.Mount) int { return strings.Compare(a.To, b.To) }) // folders before what is in them
	t, err := rootfs.Identity(id)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.Dir, "identity.cpio")
	return path, writePrivate(path, t)
}

// wayIn tells the guest how the host gets at it.
func (s *Guest) wayIn(id *rootfs.IdentityConfig) error {
	id.HostKey = s.keys.Host // the image may serve ssh itself
	if id.Ports = s.cfg.Direct; id.Ports {
		if s.cfg.Command != nil {
			s.end = access.DirectEnd()
			id.Command, id.CommandEnd, id.CommandInput = s.cfg.Command.Line(), s.end, s.cfg.Command.Stdin != nil
		}
		return nil
	}
	authorized, err := s.keys.AuthorizedKey()
	if err != nil {
		return err
	}
	id.ControlMAC, id.ControlAddr = s.controlMAC(), controlGuest
	id.AuthorizedKeys = []string{authorized[:len(authorized)-1]}
	return nil
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
func (s *Guest) join(nets networks) error {
	ports := s.machine.Ports()
	for i := range s.cfg.Machine.Cards {
		card := &s.cfg.Machine.Cards[i]
		if err := nets[card.Network].plug(ports[i], s.cfg.Machine.Name, i, card, s.cfg.Lab.CardMAC(s.cfg.Machine, card)); err != nil {
			return err
		}
	}
	if s.cfg.Firmware != machine.FirmwareNone || s.cfg.Direct {
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
func (s *Guest) Machine() machine.Machine { return s.machine }

// Name is the machine's name.
func (s *Guest) Name() string { return s.cfg.Machine.Name }

// Ready waits until the guest's init says that all is up. The error of a
// machine that does not get there is a [*machine.StartError], and the machine
// has ended then.
func (s *Guest) Ready(ctx context.Context) error { return s.boot.wait(ctx, stageReady) }

// Dial waits until the guest can be entered, and enters it as root.
func (s *Guest) Dial(ctx context.Context) (*access.Client, error) {
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

// Direct waits until the guest has its channels, and gives what is at the host's
// end of them, nil without Config.Direct. It belongs to the guest, and is closed
// with it.
func (s *Guest) Direct(ctx context.Context) (*access.Direct, error) {
	if s.direct == nil {
		return nil, nil
	}
	return s.direct, s.boot.wait(ctx, stageAccess)
}

// KeepAlive has a client of this machine notice when the machine hangs; see
// [access.Client.KeepAlive]. What its console says may tell earlier.
func (s *Guest) KeepAlive(c interface{ KeepAlive(access.Alive) }, a access.Alive) {
	a.Hopeless = func() bool { return examine(s.machine).Final() }
	c.KeepAlive(a)
}

// GiveUp ends a machine that no longer answers, and reports what is known of it;
// err says how that showed.
func (s *Guest) GiveUp(err error) *machine.StartError {
	suspect := examine(s.machine)
	s.machine.Kill()
	<-s.boot.over
	e := s.boot.exit.Err(s.Name(), machine.StageRunning)
	e.Stage, e.Cause, e.Fix = machine.StageRunning, err.Error(), ""
	if suspect.Cause != "" {
		e.Stage, e.Cause, e.Fix = suspect.Stage, suspect.Cause, suspect.Fix
	}
	return e
}

// enter connects to the guest and logs in.
func (s *Guest) enter(ctx context.Context) (*access.Client, error) {
	conn, err := s.knock(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the machine: %w", err)
	}
	return access.Dial(ctx, conn, "root", s.keys)
}

// knock connects to the guest's ssh server, which init has started but not
// waited for. A guest refuses what nobody listens for.
func (s *Guest) knock(ctx context.Context) (net.Conn, error) {
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
func (s *Guest) Ended() (machine.Exit, bool) { return s.boot.ended() }

// Over is closed when the machine has ended.
func (s *Guest) Over() <-chan struct{} { return s.boot.over }

// Wait waits for the machine's end.
func (s *Guest) Wait() machine.Exit { return s.machine.Wait() }

// Close kills the machine, if it still runs, and frees everything. It may be
// called more than once.
func (s *Guest) Close() {
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
		if s.direct != nil {
			s.direct.Close()
		}
		s.side.Wait()
	})
}
