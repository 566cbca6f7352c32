package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"wolffia/internal/debian"
)

// The addresses of a network that nobody configured: QEMU's own numbers.
const (
	gateway4 = "10.0.2.2"
	gateway6 = "fd00:77:6f6c:66::2"
)

// TestLease holds what a guest is told by DHCP, and that its network is up with
// it, in the network of old and in another.
func TestLease(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	for _, c := range []struct {
		flags                     []string
		addr, router, dns, prefix string
	}{
		{nil, "10.0.2.15", "10.0.2.2", "10.0.2.3", "fd00:77:6f6c:66:"},
		{[]string{"--subnet", "192.168.77.0/24"}, "192.168.77.15", "192.168.77.2", "192.168.77.3", "fd00:77:6f6c:66:"},
		{[]string{"--subnet", "172.16.4.0/22", "--subnet6", "fd12:3456:789a:1::/64"}, "172.16.4.15", "172.16.4.2", "172.16.4.3", "fd12:3456:789a:1:"},
	} {
		t.Run(c.addr, func(t *testing.T) {
			out := p.guest(t, `
				ip -4 -o addr show dev eth0; ip -4 route; ip -6 -o addr show dev eth0 scope global; ip -6 route; cat /etc/resolv.conf
				# A client of the test's own, which only prints what it is told.
				printf '#!/bin/sh\n[ "$1" = bound ] && echo "lease $ip router $router dns $dns domain $domain hostname $hostname"\n' >/tmp/print
				chmod +x /tmp/print
				udhcpc -i eth0 -q -n -f -s /tmp/print 2>/dev/null`, c.flags...)
			for _, want := range []string{
				"inet " + c.addr + "/", "default via " + c.router + " dev eth0", "inet6 " + c.prefix, "default via fe80:",
				"nameserver " + c.dns + "\n", "search lan\n",
				"lease " + c.addr + " router " + c.router + " dns " + c.dns + " domain lan",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in:\n%s", want, out)
				}
			}
		})
	}
}

// mirrorHost is the name of the host that the packages come from, which the
// host's resolver must know.
func mirrorHost(t *testing.T) string {
	t.Helper()
	m := mirror(t)
	u, err := url.Parse(m.URI)
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname()
}

// mirror is the archive that wolffia itself finds on this host.
func mirror(t testing.TB) debian.Mirror {
	t.Helper()
	m, err := debian.FindMirror(debian.MirrorOptions{Env: os.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestNames resolves names of the lab, of the host's files and of the host's
// resolver, and addresses back to names.
func TestNames(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	resolve := func(name string) string {
		return fmt.Sprintf("echo '[%s]'; nslookup %s 2>&1 | sed -n 's/^Address[^:]*: *\\([0-9a-f.:]*\\).*/\\1/p' | sed 1d; ", name, name)
	}
	outside := mirrorHost(t)
	script := resolve("gateway") + resolve("host.lan") + resolve("wolffia") + resolve("WOLFFIA.lan.") + resolve("dns")
	isName := !netip.MustParseAddrPort(outsidePort(outside)).IsValid()
	if isName {
		script += resolve(outside)
	}
	script += `echo '[reverse]'; nslookup 10.0.2.15 | sed -n 's/.*name = //p'
		echo '[absent]'; nslookup no-such-name.lan >/dev/null && echo found || echo none
		echo '[localhost]'; ping -c 1 -W 5 wolffia >/dev/null && echo pinged`
	got := sections(p.guest(t, script))
	for name, want := range map[string]string{
		"gateway": gateway4 + " " + gateway6, "host.lan": gateway4 + " " + gateway6, "dns": "10.0.2.3 fd00:77:6f6c:66::3",
		"reverse": "wolffia.lan", "absent": "none", "localhost": "pinged",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	for _, own := range []string{"wolffia", "WOLFFIA.lan."} {
		if !strings.HasPrefix(got[own], "10.0.2.15 fd00:77:6f6c:66:") {
			t.Errorf("%s: got %q", own, got[own])
		}
	}
	if !isName {
		return // a mirror that is known by address alone
	}
	want, err := net.LookupHost(outside)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range want {
		if strings.Contains(got[outside], netip.MustParseAddr(a).WithZone("").String()) {
			return
		}
	}
	t.Errorf("%s: got %q, the host has %q", outside, got[outside], want)
}

// outsidePort makes an address of a host name that is one, and ":0" otherwise.
func outsidePort(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a, 0).String()
	}
	return "0.0.0.0:0"
}

// sections splits what a guest printed at lines such as "[name]"; each holds
// its lines, joined by blanks.
func sections(text string) map[string]string {
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			name = line[1 : len(line)-1]
			out[name] = ""
		case line != "":
			out[name] = strings.TrimSpace(out[name] + " " + line)
		}
	}
	return out
}

// inNamespace gives a wrapper that runs wolffia in a user, mount and network
// namespace, as its root, after a setup.
func inNamespace(t *testing.T, setup string) []string {
	t.Helper()
	unshare := tooltest.Require(t, "unshare", "util-linux")
	return []string{unshare, "--user", "--map-root-user", "--mount", "--net", "--", "sh", "-ec", setup + "\nexec \"$0\" \"$@\""}
}

// TestHostsFile resolves what only the host's /etc/hosts knows.
func TestHostsFile(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	p.write(t, p.home+"/hosts", "127.0.0.1 localhost\n198.51.100.7 printer.example printer # the old one\n2001:db8::7 printer\n")
	wrap := inNamespace(t, `mount --bind "$HOME/hosts" /etc/hosts`)
	o := p.run(t, call{wrap: wrap}, "run", "--", "sh", "-c",
		"nslookup printer.example; nslookup -type=aaaa printer.; nslookup 198.51.100.7")
	for _, want := range []string{"198.51.100.7\n", "2001:db8::7\n", "name = printer.example\n"} {
		if !strings.Contains(o.out, want) {
			t.Errorf("%q is missing: %v", want, o)
		}
	}
}

// TestPing holds that ping tells the truth: the gateway answers, an address
// that is there answers, and one that is not does not.
func TestPing(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "ip", "iproute2")
	p := newPerson(t)
	wrap := inNamespace(t, `
		ip link set lo up
		ip link add d0 type veth peer name d1
		ip addr add 198.51.100.1/24 dev d0
		ip -6 addr add 2001:db8:1::1/64 dev d0 nodad
		ip link set d0 up
		ip link set d1 up`)
	script := `
		for a in 10.0.2.2 198.51.100.1 198.51.100.77 203.0.113.9 10.0.2.77 fd00:77:6f6c:66::2 2001:db8:1::1 2001:db8:1::77 2001:db8:9::9; do
			echo "[$a]"
			case $a in *:*) six=-6 ;; *) six= ;; esac
			ping $six -c 1 -W 2 $a >/dev/null 2>&1 && echo yes || echo no
		done
		echo "[size]"; ping -c 1 -W 2 -s 4000 198.51.100.1 >/dev/null && echo yes || echo no`
	o := p.run(t, call{wrap: wrap}, "run", "--", "sh", "-c", script)
	got := sections(o.out)
	for addr, want := range map[string]string{
		gateway4: "yes", "198.51.100.1": "yes", "198.51.100.77": "no", "203.0.113.9": "no", "10.0.2.77": "no",
		gateway6: "yes", "2001:db8:1::1": "yes", "2001:db8:1::77": "no", "2001:db8:9::9": "no", "size": "yes",
	} {
		if got[addr] != want {
			t.Errorf("ping %s: %q, want %q", addr, got[addr], want)
		}
	}
	if t.Failed() {
		t.Log(o)
	}
}

// hostServers are a web server and a UDP echo on the host's loopback, with the
// same port in IPv4 and IPv6.
type hostServers struct {
	port int
	web  http.ServeMux
}

func serveHost(t *testing.T) *hostServers {
	t.Helper()
	h := &hostServers{}
	l4, l6, port := listenBoth(t)
	h.port = port
	u4, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	u6, err := net.ListenPacket("udp6", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: &h.web, ReadTimeout: 5 * time.Minute}
	go server.Serve(l4)
	go server.Serve(l6)
	go echoUDP(u4)
	go echoUDP(u6)
	t.Cleanup(func() {
		server.Close()
		u4.Close()
		u6.Close()
	})
	return h
}

// listenBoth listens on one port of 127.0.0.1 and ::1.
func listenBoth(t *testing.T) (l4, l6 net.Listener, port int) {
	t.Helper()
	for range 50 {
		l4, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l4.Addr().(*net.TCPAddr).Port
		l6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port))
		if err == nil {
			return l4, l6, port
		}
		l4.Close()
	}
	t.Fatal("no port is free on 127.0.0.1 and ::1 alike")
	return nil, nil, 0
}

// echoUDP answers each datagram with itself in upper case, until c is closed.
func echoUDP(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo([]byte(strings.ToUpper(string(buf[:n]))), from)
	}
}

// netcat are the flags for a machine with a netcat that can UDP, and moves
// more than a kilobyte at a time: busybox's can't.
var netcat = []string{"-p", "netcat-openbsd"}

// TestHostServices reaches servers on the host's loopback at the gateway's
// addresses: by TCP and UDP, in IPv4 and IPv6.
func TestHostServices(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	h := serveHost(t)
	h.web.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "hello to", from)
	})
	h.web.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "took", n)
	})
	got := sections(p.guest(t, fmt.Sprintf(`port=%d
		echo '[tcp4]'; wget -q -O - http://10.0.2.2:$port/hello
		echo '[tcp6]'; wget -q -O - "http://[%s]:$port/hello"
		echo '[name]'; wget -q -O - http://gateway.lan:$port/hello
		echo '[post]'; head -c 300000 /dev/zero | tr '\0' z >/tmp/z; wget -q -O - --post-file /tmp/z http://host:$port/upload
		echo '[udp4]'; echo "a datagram" | nc.openbsd -u -w 2 10.0.2.2 $port
		echo '[udp6]'; echo "another one" | nc.openbsd -u -w 2 %s $port
		echo '[closed]'; nc -w 5 10.0.2.2 1 </dev/null 2>&1 && echo open || echo refused
		echo '[loopback]'; wget -q -T 5 -O - http://127.0.0.1:$port/hello || echo "not the host's"`, h.port, gateway6, gateway6), netcat...))
	for name, want := range map[string]string{
		"tcp4": "hello to 127.0.0.1", "tcp6": "hello to ::1", "post": "took 300000",
		"udp4": "A DATAGRAM", "udp6": "ANOTHER ONE",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if !strings.HasPrefix(got["name"], "hello to ") {
		t.Errorf("by name: got %q", got["name"])
	}
	if !strings.HasSuffix(got["closed"], "refused") || strings.Contains(got["loopback"], "hello") {
		t.Errorf("got %q and %q", got["closed"], got["loopback"])
	}
}

// TestClosedNetworks holds that --no-host closes the host, and --restrict
// everything, and that neither closes more.
func TestClosedNetworks(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	h := serveHost(t)
	h.web.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	outside := mirror(t).URI
	script := fmt.Sprintf(`port=%d
		echo '[host4]'; wget -q -T 3 -O - http://10.0.2.2:$port/hello 2>&1 || echo no
		echo '[host6]'; wget -q -T 3 -O - "http://[%s]:$port/hello" 2>&1 || echo no
		echo '[udp]'; echo hello | nc.openbsd -u -w 1 10.0.2.2 $port || echo no
		echo '[outside]'; wget -q -T 5 -O /dev/null %s/ 2>/tmp/e && echo yes || { grep -q 'server returned error' /tmp/e && echo yes || echo no; }
		echo '[lab]'; nslookup gateway.lan >/dev/null && echo yes || echo no
		echo '[ping]'; ping -c 1 -W 3 10.0.2.2 >/dev/null && echo yes || echo no
		echo '[ping6]'; ping -c 1 -W 3 %s >/dev/null && echo yes || echo no`, h.port, gateway6, outside, gateway6)
	for _, c := range []struct {
		flag                       string
		host, udp, outside, others string
	}{
		{"", "hello", "HELLO", "yes", "yes"},
		{"--no-host", "", "", "yes", "yes"},
		{"--restrict", "", "", "no", "yes"},
	} {
		t.Run(strings.Trim("open"+c.flag, "-"), func(t *testing.T) {
			flags := slices.Clone(netcat)
			if c.flag != "" {
				flags = append(flags, c.flag)
			}
			got := sections(p.guest(t, script, flags...))
			for _, host := range []string{"host4", "host6"} {
				if open := got[host] == "hello"; open != (c.host == "hello") {
					t.Errorf("%s: %q", host, got[host])
				}
			}
			if open := got["udp"] == "HELLO"; open != (c.udp == "HELLO") {
				t.Errorf("udp: %q", got["udp"])
			}
			if got["outside"] != c.outside && strings.HasPrefix(outside, "http:") { // the guest's wget has no TLS
				t.Errorf("outside: %q", got["outside"])
			}
			for _, name := range []string{"lab", "ping", "ping6"} {
				if got[name] != c.others {
					t.Errorf("%s: %q, want %q", name, got[name], c.others)
				}
			}
		})
	}
}
