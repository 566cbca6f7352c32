package rootfs

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"wolffia/internal/lazy"
	"wolffia/internal/tree"
)

// Console says what a machine has on its console.
type Console string

// The kinds of console.
const (
	ConsoleNone    Console = "none"    // only what the kernel and init say
	ConsoleSession Console = "session" // a shell for root; leaving it ends the machine
	ConsoleShell   Console = "shell"   // a shell for root, and another when it ends
	ConsoleLogin   Console = "login"   // a login prompt
)

// IdentityConfig is what makes a machine of an image.
type IdentityConfig struct {
	Hostname       string             // a DNS label, or several; empty leaves the image's
	Status         string             // the device that init reports to, such as "/dev/ttyS0"; may be empty
	Console        Console            // empty means ConsoleNone
	ConsoleDevice  string             // terminal in /dev for it, such as "tty0"; empty means "console", which has no job control
	Term           string             // the terminal's kind, as in $TERM; empty leaves it to init
	Throwaway      bool               // the end of what is typed at a login prompt ends the machine
	ControlMAC     net.HardwareAddr   // the link that the host comes in by; nil means none
	ControlAddr    netip.Prefix       // the machine's address on it
	Ports          bool               // the host has ports of a virtio console: see files/ports
	Command        string             // with Ports, a line for root's shell that is run once, its streams on ports
	CommandEnd     string             // the word behind the last that it wrote, of letters and digits
	CommandInput   bool               // it has a port for its input, too
	HostKey        ed25519.PrivateKey // dropbear's; nil leaves the image's
	AuthorizedKeys []string           // lines that let in root, besides the image's
	NICs           []NIC              // in the guest's order
	DNS            []netip.Addr       // name servers, besides those of leases
	Search         string             // the domain of names without a dot, for DNS
	Hosts          []Host             // other machines, for /etc/hosts
	Forwarding     bool               // it routes between its cards
	Modules        []string           // paths of modules in load order, each with options behind it
	Mounts         []Mount            // disks and folders of the host, those below others behind them
	V6             bool               // wait (at most 2 s) for an address by router advertisement; with Forwarding, advertisements still count
	Seed           []byte             // for the kernel's random numbers, where it has none yet
	KeepInittab    bool               // the image's files bring their own /etc/inittab
}

// NIC is one network interface of a machine as its own system sees it. With
// neither DHCP nor Addrs it is up, and has but the link-local IPv6 address that
// every card gives itself: router advertisements don't count there.
type NIC struct {
	Name     string // "eth0", ...
	MAC      net.HardwareAddr
	DHCP     bool
	Addrs    []netip.Prefix // static addresses, instead of DHCP
	Gateways []netip.Addr   // default routers, with static addresses
	Routes   []Route        // to be had as soon as the card has its address
}

// Route is a way to other networks.
type Route struct {
	To  netip.Prefix // zero means all others: a default route
	Via netip.Addr   // the router, a neighbour on the card's network
}

// Host is a line of /etc/hosts.
type Host struct {
	Addr  netip.Addr
	Names []string // the main one first; as in DNS
}

// Mount is a disk, or a folder of the host, that the guest mounts.
type Mount struct {
	What     string // the device, such as "/dev/vda1", or what the backend calls a folder: machine.Share.Tag
	Type     string // of file system: "ext4", machine.Guest.Share.Type
	To       string // where, an absolute path of letters, digits and "/_.@+:=-"; made if it is not there
	Options  string // of mount, with commas between them: machine.Guest.Share.Options(tag); may be empty
	ReadOnly bool   // mounted so; what keeps the guest from writing is the backend
}

// field is what may stand in a field of /etc/wolffia/machine, which the
// shell reads: nothing that it would take as its own.
var (
	deviceRule = rule{lazy.Regexp(`^[A-Za-z0-9_/.-]+$`), 64}
	nicRule    = rule{lazy.Regexp(`^[A-Za-z0-9_.-]+$`), 15}
	hostRule   = rule{lazy.Regexp(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`), 253}
	moduleRule = rule{lazy.Regexp(`^/[A-Za-z0-9_/.+,=: -]+$`), 4096}
	targetRule = rule{lazy.Regexp(`^/[A-Za-z0-9_/.@+:=-]+$`), 4096}
	optionRule = rule{lazy.Regexp(`^[A-Za-z0-9_.=,-]+$`), 1024}
)

// rule bounds the length beside the expression: repeat counts in one, such as
// {1,64}, take a millisecond to compile, at every start of the program.
type rule struct {
	expr func() *regexp.Regexp
	most int // bytes
}

// MatchString reports whether s follows the rule.
func (r rule) MatchString(s string) bool { return len(s) <= r.most && r.expr().MatchString(s) }

// Identity makes the files that belong to one machine, to be laid over the
// image: as the second archive of its initramfs. Times are zero.
func Identity(c IdentityConfig) (*tree.Tree, error) {
	text, err := c.machineFile()
	if err != nil {
		return nil, fmt.Errorf("describe machine %s: %w", c.Hostname, err)
	}
	t := tree.New()
	put := func(name string, perm uint32, content []byte) {
		if err == nil && len(content) > 0 {
			err = t.Put(name, tree.File(perm, tree.Bytes(content)))
		}
	}
	if err := t.MkdirAll("/etc/wolffia", 0o755); err != nil {
		return nil, err
	}
	put("/etc/wolffia/machine", 0o600, []byte(text))
	if len(c.Command) > maxArgument {
		put(commandFile, 0o600, []byte(c.Command+"\n"))
	}
	if c.Command != "" { // not among what the command may print itself: /init empties it
		put("/etc/wolffia/end", 0o600, []byte(c.CommandEnd+"\n"))
		if err := t.MkdirAll("/run/wolffia", 0o755); err != nil {
			return nil, err
		}
		for _, name := range []string{"stream.out", "stream.err"} { // a process less than making them there
			if err == nil {
				err = t.Put("/run/wolffia/"+name, &tree.Node{Mode: tree.TypeFIFO | 0o600})
			}
		}
	}
	put("/etc/wolffia/modules", 0o644, []byte(lines(c.Modules)))
	if c.Hostname != "" {
		put("/etc/hostname", 0o644, []byte(c.Hostname+"\n"))
	}
	if !c.KeepInittab {
		put("/etc/inittab", 0o644, []byte(c.inittab()))
	}
	if c.HostKey != nil {
		if err := t.MkdirAll("/etc/dropbear", 0o755); err != nil {
			return nil, err
		}
		put("/etc/dropbear/dropbear_ed25519_host_key", 0o600, DropbearKey(c.HostKey))
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

func lines(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, "\n") + "\n"
}

// machineFile writes the variables that /init reads.
func (c IdentityConfig) machineFile() (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	var s strings.Builder
	s.WriteString("# What sets this machine apart from others with its image. Read by /init.\n")
	fmt.Fprintf(&s, "HOSTNAME=%s\nSTATUS=%s\n", c.Hostname, c.Status)
	if c.Term != "" {
		fmt.Fprintf(&s, "export TERM=%s\n", c.Term)
	}
	console := c.Console
	if console == "" {
		console = ConsoleNone
	}
	fmt.Fprintf(&s, "CONSOLE=%s\nTTY=%s\n", console, strings.TrimPrefix(c.ConsoleDevice, "/dev/"))
	if c.ControlMAC != nil {
		fmt.Fprintf(&s, "CONTROL_MAC=%s\nCONTROL_ADDR=%s\n", c.ControlMAC, c.ControlAddr)
	}
	if c.Ports {
		s.WriteString("PORTS=1\n")
	}
	if c.Command != "" {
		line := c.Command
		if len(line) > maxArgument {
			line = ". " + commandFile
		}
		fmt.Fprintf(&s, "COMMAND=%s\n", quote(line))
		if c.CommandInput {
			s.WriteString("INPUT=1\n")
		}
	}
	var nics, routes []string
	for _, n := range c.NICs {
		nics = append(nics, n.field())
		for _, r := range n.Routes {
			routes = append(routes, n.Name+","+r.field())
		}
	}
	fmt.Fprintf(&s, "# NAME,MAC,MODE[,ADDRESS/BITS+...[,GATEWAY+...]] with MODE dhcp, static or none\nNICS=%q\n", strings.Join(nics, " "))
	if len(routes) > 0 {
		fmt.Fprintf(&s, "# NAME,NETWORK/BITS,ROUTER\nROUTES=%q\n", strings.Join(routes, " "))
	}
	if c.Forwarding {
		s.WriteString("FORWARDING=1\n")
	}
	if len(c.DNS) > 0 {
		fmt.Fprintf(&s, "DNS=%q\nSEARCH=%s\n", join(c.DNS, " "), c.Search)
	}
	if len(c.Hosts) > 0 {
		hosts := make([]string, len(c.Hosts))
		for i, h := range c.Hosts {
			hosts[i] = h.Addr.String() + " " + strings.Join(h.Names, " ")
		}
		fmt.Fprintf(&s, "HOSTS='%s'\n", strings.Join(hosts, "\n"))
	}
	if len(c.Mounts) > 0 {
		mounts := make([]string, len(c.Mounts))
		for i, x := range c.Mounts {
			mounts[i] = x.field()
		}
		fmt.Fprintf(&s, "# TYPE,WHAT,FOLDER[,OPTION...]\nMOUNTS=%q\n", strings.Join(mounts, " "))
	}
	if len(c.AuthorizedKeys) > 0 {
		fmt.Fprintf(&s, "KEYS=%s\n", quote(strings.Join(c.AuthorizedKeys, "\n")))
	}
	if len(c.Seed) > 0 {
		fmt.Fprintf(&s, "SEED=%x\n", c.Seed)
	}
	if c.V6 {
		s.WriteString("V6=1\n")
	}
	return s.String(), nil
}

// quote makes one word of any bytes but NUL for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// A command that is longer than a program's argument may be (128 KiB, execve(2))
// is left in a file.
const (
	commandFile = "/etc/wolffia/command"
	maxArgument = 64 << 10
)

func (c IdentityConfig) check() error {
	switch {
	case c.Hostname != "" && !hostRule.MatchString(c.Hostname):
		return fmt.Errorf("host name %q is not a domain name", c.Hostname)
	case c.Search != "" && !hostRule.MatchString(c.Search):
		return fmt.Errorf("search domain %q is not a domain name", c.Search)
	case c.Status != "" && !deviceRule.MatchString(c.Status):
		return fmt.Errorf("status device %q is not a path", c.Status)
	case c.ConsoleDevice != "" && !deviceRule.MatchString(c.ConsoleDevice):
		return fmt.Errorf("console device %q is not a path", c.ConsoleDevice)
	case c.Term != "" && !nicRule.MatchString(c.Term) && !deviceRule.MatchString(c.Term):
		return fmt.Errorf("terminal kind %q is not a word", c.Term)
	case c.ControlMAC != nil && !c.ControlAddr.IsValid():
		return errors.New("the control link has no address")
	case strings.Contains(c.Command, "\x00"):
		return errors.New("a command holds no NUL byte")
	case c.Command != "" && (!c.Ports || !hostRule.MatchString(c.CommandEnd)):
		return errors.New("a command has ports, and a word for its end")
	case c.HostKey != nil && len(c.HostKey) != ed25519.PrivateKeySize:
		return errors.New("the host key is not an ed25519 key")
	}
	switch c.Console {
	case "", ConsoleNone, ConsoleSession, ConsoleShell, ConsoleLogin:
	default:
		return fmt.Errorf("console %q is none of none, session, shell and login", c.Console)
	}
	for _, m := range c.Modules {
		if !moduleRule.MatchString(m) {
			return fmt.Errorf("module %q is not an absolute path", m)
		}
	}
	for _, k := range c.AuthorizedKeys {
		if strings.ContainsAny(k, "\n\x00") {
			return errors.New("an authorized key is one line")
		}
	}
	for _, x := range c.Mounts {
		if !nicRule.MatchString(x.Type) || !deviceRule.MatchString(x.What) || !targetRule.MatchString(x.To) || x.Options != "" && !optionRule.MatchString(x.Options) {
			return fmt.Errorf("mount of %q, of type %q, on %q with options %q", x.What, x.Type, x.To, x.Options)
		}
	}
	if slices.ContainsFunc(c.DNS, zoned) {
		return errors.New("a name server's address has no zone")
	}
	return c.checkNetwork()
}

// checkNetwork looks at what the guest is told of cards and networks.
func (c IdentityConfig) checkNetwork() error {
	for _, n := range c.NICs {
		if !nicRule.MatchString(n.Name) || len(n.MAC) != 6 {
			return fmt.Errorf("network interface %q with address %s", n.Name, n.MAC)
		}
		if slices.ContainsFunc(n.Gateways, zoned) {
			return fmt.Errorf("network interface %s: a gateway's address has no zone", n.Name)
		}
		for _, r := range n.Routes {
			if !r.Via.IsValid() || zoned(r.Via) || r.To.IsValid() && r.To.Addr().Is4() != r.Via.Is4() {
				return fmt.Errorf("network interface %s: no route to %v leads by way of %v", n.Name, r.To, r.Via)
			}
		}
	}
	for _, h := range c.Hosts {
		if !h.Addr.IsValid() || zoned(h.Addr) || len(h.Names) == 0 || slices.ContainsFunc(h.Names, notHost) {
			return fmt.Errorf("host %v with names %q", h.Addr, h.Names)
		}
	}
	return nil
}

// zoned reports whether a carries a zone, which is free text.
func zoned(a netip.Addr) bool { return a.Zone() != "" }

func notHost(name string) bool { return !hostRule.MatchString(name) }

// field renders n for NICS.
func (n NIC) field() string {
	switch {
	case n.DHCP:
		return fmt.Sprintf("%s,%s,dhcp", n.Name, n.MAC)
	case len(n.Addrs) == 0:
		return fmt.Sprintf("%s,%s,none", n.Name, n.MAC)
	}
	s := fmt.Sprintf("%s,%s,static,%s", n.Name, n.MAC, join(n.Addrs, "+"))
	if len(n.Gateways) > 0 {
		s += "," + join(n.Gateways, "+")
	}
	return s
}

// field renders r for ROUTES.
func (r Route) field() string {
	to := "default"
	if r.To.IsValid() {
		to = r.To.Masked().String()
	}
	return to + "," + r.Via.String()
}

// field renders m for MOUNTS.
func (m Mount) field() string {
	words := []string{m.Type, m.What, m.To}
	if m.ReadOnly {
		words = append(words, "ro")
	}
	if m.Options != "" {
		words = append(words, m.Options)
	}
	return strings.Join(words, ",")
}

func join[T fmt.Stringer](all []T, sep string) string {
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return strings.Join(words, sep)
}

// inittab is busybox init's table with the console that c asks for.
func (c IdentityConfig) inittab() string {
	id := strings.TrimPrefix(c.ConsoleDevice, "/dev/")
	if id == "console" {
		id = ""
	}
	var line string
	switch c.Console {
	case ConsoleSession:
		line = id + "::once:/usr/lib/wolffia/session\n"
	case ConsoleShell:
		line = id + "::respawn:/usr/lib/wolffia/session stay\n"
	case ConsoleLogin:
		line = id + "::respawn:/usr/lib/wolffia/login\n"
		if c.Throwaway {
			line = id + "::respawn:/usr/lib/wolffia/login once\n"
		}
	}
	return "# inittab of busybox's init, for this machine: TERMINAL::ACTION:COMMAND\n" + line + inittabTail
}

// DropbearKey gives an ed25519 key in the format of dropbear's host key files
// (dropbear, src/ed25519.c, buf_put_ed25519_priv_key): the string
// "ssh-ed25519" and the string of the 32 bytes of the seed and the 32 of the
// public key, each with its length before it, as in RFC 4251, section 5.
func DropbearKey(key ed25519.PrivateKey) []byte {
	var b bytes.Buffer
	for _, s := range [][]byte{[]byte("ssh-ed25519"), key} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		b.Write(n[:])
		b.Write(s)
	}
	return b.Bytes()
}
