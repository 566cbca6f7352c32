package rootfs

import (
	"crypto/ed25519"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func TestIdentity(t *testing.T) {
	got, err := Identity(IdentityConfig{
		Hostname: "alice", Status: "/dev/ttyS0", Console: ConsoleLogin, ConsoleDevice: "/dev/tty0", Term: "xterm-256color",
		ControlMAC: testMAC, ControlAddr: netip.MustParsePrefix("169.254.77.2/30"), HostKey: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), AuthorizedKeys: []string{"key one", `from="o'hara" key two`},
		NICs: []NIC{
			{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DHCP: true, Routes: []Route{
				{To: netip.MustParsePrefix("10.1.2.3/16"), Via: netip.MustParseAddr("10.0.2.9")},
				{Via: netip.MustParseAddr("fd00:2::9")}}},
			{Name: "eth1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
				Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("fd00::5/64")},
				Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Name: "eth2", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}},
		},
		DNS: []netip.Addr{netip.MustParseAddr("10.0.0.3")}, Modules: []string{"/lib/modules/6/a.ko", "/lib/modules/6/b.ko debug=1"},
		Search: "lan", V6: true, Seed: []byte{1, 2, 3}, Forwarding: true,
		Hosts: []Host{{netip.MustParseAddr("10.0.0.6"), []string{"bob.lan", "bob"}}, {netip.MustParseAddr("fd00::6"), []string{"bob"}}},
		Ports: true, Command: "echo 'a\n'; exit", CommandEnd: "END1",
		Mounts: []Mount{{What: "share0", Type: "9p", To: "/mnt/src", Options: "trans=virtio,msize=4096", ReadOnly: true}, {What: "x", Type: "hostfs", To: "/y"}},
	})
	must(t, err)
	for name, want := range map[string]string{
		"/etc/wolffia/machine": `# What sets this machine apart from others with its image. Read by /init.
HOSTNAME=alice
STATUS=/dev/ttyS0
export TERM=xterm-256color
CONSOLE=login
TTY=tty0
CONTROL_MAC=02:00:00:00:00:09
CONTROL_ADDR=169.254.77.2/30
PORTS=1
COMMAND='echo '\''a
'\''; exit'
# NAME,MAC,MODE[,ADDRESS/BITS+...[,GATEWAY+...]] with MODE dhcp, static or none
NICS="eth0,02:00:00:00:00:01,dhcp eth1,02:00:00:00:00:02,static,10.0.0.5/24+fd00::5/64,10.0.0.1 eth2,02:00:00:00:00:03,none"
# NAME,NETWORK/BITS,ROUTER
ROUTES="eth0,10.1.0.0/16,10.0.2.9 eth0,default,fd00:2::9"
FORWARDING=1
DNS="10.0.0.3"
SEARCH=lan
HOSTS='10.0.0.6 bob.lan bob
fd00::6 bob'
# TYPE,WHAT,FOLDER[,OPTION...]
MOUNTS="9p,share0,/mnt/src,ro,trans=virtio,msize=4096 hostfs,x,/y"
KEYS='key one
from="o'\''hara" key two'
SEED=010203
V6=1
`,
		"/etc/wolffia/modules": "/lib/modules/6/a.ko\n/lib/modules/6/b.ko debug=1\n",
		"/etc/hostname":        "alice\n",
	} {
		if have := text(t, got, name); have != want {
			t.Errorf("%s holds\n%s, want\n%s", name, have, want)
		}
	}
	if tab := text(t, got, "/etc/inittab"); !strings.Contains(tab, "\ntty0::respawn:/usr/lib/wolffia/login\n") {
		t.Error(tab)
	}
	key := got.Get("/etc/dropbear/dropbear_ed25519_host_key")
	if key == nil || key.Mode&0o777 != 0o600 || key.Size() != 4+11+4+64 {
		t.Errorf("host key %+v", key)
	}
}

// TestIdentityLongCommand leaves one that is too long for an argument in a file.
func TestIdentityLongCommand(t *testing.T) {
	line := "echo " + strings.Repeat("x", 200<<10)
	got, err := Identity(IdentityConfig{Ports: true, Command: line, CommandEnd: "END1"})
	must(t, err)
	if have := text(t, got, "/etc/wolffia/command"); have != line+"\n" {
		t.Errorf("the file has %d bytes", len(have))
	}
	if have := text(t, got, "/etc/wolffia/end"); have != "END1\n" {
		t.Errorf("the end is %q", have)
	}
	if have := text(t, got, "/etc/wolffia/machine"); !strings.Contains(have, "\nCOMMAND='. /etc/wolffia/command'\n") {
		t.Error(have)
	}
}

// TestIdentityRefuses what the guest's shell would run.
func TestIdentityRefuses(t *testing.T) {
	for name, c := range map[string]IdentityConfig{
		"host name":      {Hostname: "a$(reboot)"},
		"status":         {Status: "/dev/x;reboot"},
		"console":        {ConsoleDevice: "tty0 x"},
		"kind":           {Console: "fancy"},
		"term":           {Term: "`id`"},
		"card":           {NICs: []NIC{{Name: "eth 0", MAC: testMAC}}},
		"card's MAC":     {NICs: []NIC{{Name: "eth0"}}},
		"module":         {Modules: []string{"/a\n/b"}},
		"key":            {AuthorizedKeys: []string{"a\nb"}},
		"control":        {ControlMAC: testMAC},
		"command":        {Command: "true", CommandEnd: "END1"},
		"command's end":  {Command: "true", Ports: true, CommandEnd: "$(id)"},
		"command's NUL":  {Command: "a\x00b", Ports: true, CommandEnd: "END1"},
		"host's name":    {Hosts: []Host{{netip.MustParseAddr("10.0.0.6"), []string{"bob'"}}}},
		"host's zone":    {Hosts: []Host{{netip.MustParseAddr("fe80::1%'"), []string{"bob"}}}},
		"nameless host":  {Hosts: []Host{{Addr: netip.MustParseAddr("10.0.0.6")}}},
		"route's family": {NICs: []NIC{{Name: "e", MAC: testMAC, Routes: []Route{{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("fd00::1")}}}}},
		"route's zone":   {NICs: []NIC{{Name: "e", MAC: testMAC, Routes: []Route{{Via: netip.MustParseAddr("fe80::1%$(id)")}}}}},
		"route nowhere":  {NICs: []NIC{{Name: "e", MAC: testMAC, Routes: []Route{{}}}}},
		"mounted":        {Mounts: []Mount{{What: "a,b", Type: "9p", To: "/x"}}},
		"mount's type":   {Mounts: []Mount{{What: "a", Type: "9p x", To: "/x"}}},
		"mount's place":  {Mounts: []Mount{{What: "a", Type: "9p", To: "x"}, {What: "a", Type: "9p", To: "/$(id)"}}},
		"mount's option": {Mounts: []Mount{{What: "a", Type: "9p", To: "/x", Options: "a b"}}},
		"zone":           {NICs: []NIC{{Name: "e", MAC: testMAC, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}, Gateways: []netip.Addr{netip.MustParseAddr("fe80::1%$(id)")}}}},
	} {
		if _, err := Identity(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if names := KnownServices(); !slices.Contains(names, "dropbear") || !slices.IsSorted(names) {
		t.Error(names)
	}
}
