package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// small is the image of labs in tests.
const small = "images:\n  base: {packages: [busybox-static, dropbear-bin], deps: elf}\n"

// lab is a lab in the background, in a folder of its own.
type lab struct {
	*person
	t   testing.TB
	dir string
}

// newLab writes a lab's file, and takes the lab down when the test ends.
func newLab(t testing.TB, p *person, file string) *lab {
	t.Helper()
	l := &lab{person: p, t: t, dir: p.folder(t, "lab")}
	l.file(file)
	t.Cleanup(func() {
		l.try(t, call{dir: l.dir}, "down", "--volumes")
		l.checkJournals()
	})
	return l
}

// file replaces the lab's file.
func (l *lab) file(text string) {
	l.t.Helper()
	l.write(l.t, filepath.Join(l.dir, "wolffia.yaml"), text)
}

// do runs a verb in the lab's folder, which has to succeed.
func (l *lab) do(args ...string) string {
	l.t.Helper()
	return l.run(l.t, call{dir: l.dir, limit: cold}, args...).out
}

// in runs a script in a machine, which has to succeed.
func (l *lab) in(machine, script string) string {
	l.t.Helper()
	return l.do("exec", machine, "--", "sh", "-ec", script)
}

// fails runs a verb that must fail with a status, and gives what it complains.
func (l *lab) fails(status int, args ...string) string {
	l.t.Helper()
	o := l.try(l.t, call{dir: l.dir, limit: cold}, args...)
	if o.status != status {
		l.t.Fatalf("status %d, want %d: %v", o.status, status, o)
	}
	return o.err
}

// machine is what ps says of a machine.
type machineStatus struct {
	Name, State, Backend, Error string
	Restarts                    int
}

func (l *lab) ps() (pid int, machines map[string]machineStatus) {
	l.t.Helper()
	var labs []struct {
		PID      int
		Machines []machineStatus
	}
	if err := json.Unmarshal([]byte(l.do("ps", "--json")), &labs); err != nil || len(labs) != 1 {
		l.t.Fatalf("%v, %v", labs, err)
	}
	machines = map[string]machineStatus{}
	for _, m := range labs[0].Machines {
		machines[m.Name] = m
	}
	return labs[0].PID, machines
}

// TestLab has machines of several kinds on one network, and others behind a
// machine that routes.
func TestLab(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	into := freePort(t)
	l := newLab(t, p, fmt.Sprintf(`
name: mixed
images:
  base: {packages: [busybox-static, dropbear-bin], deps: elf}
networks:
  lan: {subnet6: "fd00:1::/64", routes: [{to: far, via: router}]}
  far: {subnet: 10.9.0.0/24, router: router}
machines:
  anna: {networks: [lan]}
  bert: {networks: [lan]}
  carl: {networks: [lan], backend: qemu}
  dora: {networks: [lan], backend: qemu, arch: arm64}
  router: {networks: [lan, far]}
  emil: {networks: [far], after: [router], forwards: ["127.0.0.1:%d:80"]}
`, into))
	l4, l6, port := listenBoth(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "the host hears", from)
	})}
	go server.Serve(l4)
	go server.Serve(l6)
	defer server.Close()
	l.do("up", "--boot-timeout", "5m")

	near := []string{"anna", "bert", "carl", "dora"}
	for _, from := range near {
		var script strings.Builder
		for _, to := range near {
			if from != to {
				fmt.Fprintf(&script, "ping -4 -c 1 -W 5 %s; ping -6 -c 1 -W 5 %[1]s.lan\n", to)
			}
		}
		fmt.Fprintf(&script, "wget -q -O - http://10.0.2.2:%d/; wget -q -O - 'http://[fd00:1::2]:%[1]d/'\n", port)
		fmt.Fprintf(&script, "ping -4 -c 1 -W 5 emil; ping -6 -c 1 -W 5 emil\n")
		if out := l.in(from, script.String()); strings.Count(out, " 0% packet loss") != 8 || !strings.Contains(out, "the host hears 127.0.0.1\nthe host hears ::1\n") {
			t.Errorf("%s: %s", from, out)
		}
	}
	for _, to := range near {
		out := l.in("emil", fmt.Sprintf("ping -4 -c 1 -W 5 %s; ping -6 -c 1 -W 5 %[1]s", to))
		if strings.Count(out, " 0% packet loss") != 2 || strings.Count(out, "ttl=63") != 2 {
			t.Errorf("emil to %s: %s", to, out)
		}
	}
	// The host, and its name server, lie behind the router, and the way back leads
	// over it. A port of the host leads in.
	if out := l.in("emil", fmt.Sprintf("wget -q -O - http://10.0.2.2:%d/; wget -q -O - http://gateway.lan:%[1]d/; wget -q -O - 'http://[fd00:1::2]:%[1]d/'; ping -c 1 -W 5 10.0.2.2", port)); strings.Count(out, "the host hears") != 3 || !strings.Contains(out, "the host hears ::1") {
		t.Error(out)
	}
	l.start(t, call{dir: l.dir}, "exec", "emil", "--", "sh", "-c", "echo from emil | nc -l -p 80")
	l.in("emil", "until netstat -ltn | grep -q :80; do sleep 0.1; done")
	if c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", into)); err != nil {
		t.Error(err)
	} else if b, err := io.ReadAll(c); err != nil || string(b) != "from emil\n" {
		t.Errorf("%q, %v", b, err)
	}
	_, machines := l.ps()
	for name, m := range machines {
		if m.State != "ready" || (m.Backend == "qemu") != (name == "carl" || name == "dora") {
			t.Errorf("%+v", m)
		}
	}
	l.do("down")
	if out := l.do("ps"); !strings.Contains(out, "no lab is up") {
		t.Error(out)
	}
}

// TestLabRestart restarts machines, kills them and has one crash while two others
// talk: those don't notice, and the links of what comes back do their work again.
func TestLabRestart(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small+`
networks: {lan: }
machines:
  anna: {networks: [lan]}
  bert: {networks: [lan]}
  carl: {networks: [lan], restart: on-failure}
  dora: {networks: [lan], backend: qemu}
`)
	l.do("up")
	// Bytes that say where they stand, until there are enough; the sum at the end
	// is of all of them.
	listening := l.start(t, call{dir: l.dir}, "exec", "bert", "--", "sh", "-c", "mkfifo /tmp/f; exec 9<>/tmp/f; nc -l -p 99 <&9 | tee /tmp/got | sha256sum & until netstat -ltn | grep -q :99; do sleep 0.1; done; echo listens; wait")
	listening.out.expect(t, "listens")
	var sum string
	var sending sync.WaitGroup
	sending.Go(func() {
		sum = l.in("anna", "i=0; until [ -e /tmp/enough ]; do seq $i $((i+2000)); i=$((i+1)); sleep 0.1; done | tee /tmp/sent | nc bert 99; sha256sum </tmp/sent")
	})
	flows := func() {
		t.Helper()
		received := func() int {
			n, err := strconv.Atoi(strings.TrimSpace(l.in("bert", "wc -c </tmp/got")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := received()
		eventually(t, patience, fmt.Sprintf("more than %d bytes come", before), func() bool { return received() > before })
	}
	l.do("restart", "carl", "dora")
	flows()
	for _, m := range []string{"carl", "dora"} {
		l.in(m, "ping -c 1 -W 5 anna")
	}
	l.do("stop", "--kill", "carl", "dora")
	flows()
	if _, m := l.ps(); m["carl"].State != "stopped" || m["dora"].State != "stopped" {
		t.Errorf("%+v", m)
	}
	l.do("restart", "carl")
	// One that dies by itself comes back by itself.
	l.try(t, call{dir: l.dir}, "exec", "carl", "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
	limit := time.Now().Add(patience)
	for {
		if _, m := l.ps(); m["carl"].State == "ready" && m["carl"].Restarts >= 3 {
			break
		}
		if time.Now().After(limit) {
			_, m := l.ps()
			t.Fatalf("%+v", m["carl"])
		}
		time.Sleep(100 * time.Millisecond)
	}
	if out := l.do("logs"); !regexp.MustCompile(`(?m)^\S+ \S+ warn lab carl: machine carl died: .*; it is started again in 1s$`).MatchString(out) {
		t.Errorf("the supervisor's log does not tell: %s", out)
	}
	flows()
	l.in("carl", "ping -c 1 -W 5 anna")
	l.in("anna", "touch /tmp/enough")
	sending.Wait()
	if status := listening.end(t); status != 0 {
		t.Fatal(listening.err)
	}
	if got := listening.out.String(); sum == "" || !strings.HasSuffix(got, sum) {
		t.Errorf("sent %s, got %s", sum, got)
	}
}

// TestLabApply changes the file of a lab that is up: only what has to is
// touched.
func TestLabApply(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	images := small + "  filed: {from: base, files: [{path: /etc/filed, from: ./filed}]}\n"
	l := newLab(t, p, images+`
networks: {lan: }
machines:
  anna: {image: base, networks: [lan]}
  bert: {image: base, networks: [lan]}
  carl: {image: base, networks: [lan]}
`)
	p.write(t, filepath.Join(l.dir, "filed"), "old\n")
	l.do("up")
	for _, m := range []string{"anna", "bert"} {
		l.in(m, "echo 1 >/root/life")
	}
	port := freePort(t)
	l.file(images + fmt.Sprintf(`
networks: {lan: }
machines:
  anna: {image: base, networks: [lan], forwards: ["%d:80"]}
  bert: {image: base, networks: [lan], memory: 96M}
  dora: {image: filed, networks: [lan], after: [anna]}
`, port))
	plan := l.do("up", "--dry-run")
	want := "stop machine carl\nchange machine anna: forwards\nrestart machine bert: memory\nstart machine dora\n"
	if plan != want {
		t.Errorf("the plan is\n%swant\n%s", plan, want)
	}
	l.do("up")
	if got := l.in("anna", "cat /root/life"); got != "1\n" {
		t.Errorf("anna was restarted: %q", got)
	}
	if o := l.try(t, call{dir: l.dir}, "exec", "bert", "--", "cat", "/root/life"); o.status == 0 {
		t.Error("bert was not restarted")
	}
	l.in("dora", "ping -c 1 -W 5 anna")
	l.fails(2, "exec", "carl", "--", "true")
	served := l.start(t, call{dir: l.dir}, "exec", "anna", "--", "sh", "-c", "nc -l -p 80 -e echo from anna & until netstat -ltn | grep -q :80; do sleep 0.1; done; echo listens; wait")
	served.out.expect(t, "listens")
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 100)
	if n, _ := conn.Read(buf); string(buf[:n]) != "from anna\n" {
		t.Errorf("%q", buf[:n])
	}
	if plan := l.do("up", "--dry-run"); !strings.Contains(plan, "nothing") {
		t.Errorf("still to do: %s", plan)
	}
	// So do the files that an image is made of.
	boot := l.in("anna", "cat /proc/sys/kernel/random/boot_id")
	p.write(t, filepath.Join(l.dir, "filed"), "new\n")
	was := l.in("dora", "cat /etc/filed")
	l.do("up")
	if is := l.in("dora", "cat /etc/filed"); was != "old\n" || is != "new\n" {
		t.Errorf("%q became %q", was, is)
	}
	if again := l.in("anna", "cat /proc/sys/kernel/random/boot_id"); again != boot {
		t.Error("anna was restarted")
	}
	// A mistake changes nothing.
	l.file(small + "networks: {lan: }\nmachines: {anna: {networks: [lna]}}\n")
	if e := l.fails(2, "up"); !strings.Contains(e, "wolffia.yaml:4:30: unknown network \"lna\"; did you mean \"lan\"?") {
		t.Error(e)
	}
	l.file(small + "networks: {lan: }\nmachines: {anna: {networks: [lan], kernel: ./nothing}}\n")
	l.fails(2, "up")
	l.in("bert", "ping -c 1 -W 5 anna")
}

// TestLabReadiness starts machines after others, and reports those that don't
// become ready. One of the others is a DHCP server, on a network where the gateway
// is none.
func TestLabReadiness(t *testing.T) {
	parallel(t)
	tshark := tooltest.Require(t, "tshark", "tshark")
	l := newLab(t, newPerson(t), `
images:
  base: {packages: [busybox-static, dropbear-bin], deps: elf}
  server:
    from: base
    files: [{path: /etc/wolffia/services/late, mode: "0755", content: "#!/bin/sh\n(sleep 1; echo up >/run/late; until ip -4 addr show eth0 | grep -q inet; do sleep 0.1; done; httpd -f -p 10.0.2.50:80) </dev/null >/dev/null 2>&1 3>&- &\n"}]
    services: [late]
  dhcp:
    from: server
    files:
      - {path: /etc/wolffia/services/dhcp, mode: "0755", content: "#!/bin/sh\nudhcpd -a 100 /etc/udhcpd.conf\n"}
      - {path: /etc/udhcpd.conf, content: "interface eth1\nstart 10.7.0.50\nend 10.7.0.59\noption subnet 255.255.255.0\nlease_file /run/leases\n"}
    services: [late, dhcp]
  aside:
    from: base
    files: [{path: /etc/wolffia/services/web, mode: "0755", content: "#!/bin/sh\nhttpd -p 10.7.0.11:80\n"}]
    services: [web]
networks: {lan: , still: {subnet: 10.7.0.0/24, dhcp: false}}
machines:
  cut: {image: aside, networks: [{network: still, address: 10.7.0.11, down: true}], ready: {port: 80}}  # its address is its own, cable or not
  last: {image: base, networks: [lan, {network: still, address: dhcp}], after: [middle]}
  middle: {image: server, networks: [{network: still, address: 10.7.0.7}], after: [first], backend: qemu, ready: {command: "test -e /run/late"}}
  first: {image: dhcp, networks: [{network: lan, address: 10.0.2.50}, {network: still, address: 10.7.0.9}], ready: {port: 80}}  # which is bound to that address alone
`)
	l.do("up")
	// Each began when the one before was ready, which took that one a second's sleep.
	began := func(machine string) (earliest, latest time.Time) {
		asked := time.Now()
		up, err := time.ParseDuration(strings.Fields(l.in(machine, "cat /proc/uptime"))[0] + "s")
		if err != nil {
			t.Fatal(err)
		}
		return asked.Add(-up), time.Now().Add(-up)
	}
	for _, pair := range [][2]string{{"first", "middle"}, {"middle", "last"}} {
		before, _ := began(pair[0])
		if _, after := began(pair[1]); after.Sub(before) < time.Second {
			t.Errorf("%s began %v after %s", pair[1], after.Sub(before), pair[0])
		}
		l.in(pair[1], "ping -4 -c 1 -W 5 "+pair[0])
	}
	if out := l.in("last", "ip -4 addr show eth1"); !strings.Contains(out, "inet 10.7.0.5") {
		t.Error(out)
	}
	out := l.in("middle", `ip addr show eth0; for v in 4 6; do ping -$v -c 1 -W 5 gateway; ping -$v -c 1 -W 5 first; done; ip -6 route`)
	for _, want := range []string{"inet 10.7.0.7/24", "(10.7.0.2)", "(10.7.0.9)", "default via fe80:"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	l.in("first", "killall udhcpd")
	l.in("middle", "! udhcpc -n -q -t 3 -T 1 -i eth0")
	if o := l.run(t, call{dir: l.dir}, "down", "-q"); o.out+o.err != "" {
		t.Error(o)
	}
	l.file(`
images:
  base: {packages: [busybox-static, dropbear-bin], deps: elf}
  broken:
    from: base
    files: [{path: /etc/wolffia/services/crash, mode: "0755", content: "#!/bin/sh\necho c >/proc/sysrq-trigger\n"}]
    services: [crash]
networks: {lan: , bare: {ring: 0}}
machines:
  never: {image: base, networks: [lan], ready: {port: 81, timeout: 2s}}
  waits: {image: base, networks: [lan], after: [never]}
  fine: {image: base, networks: [lan]}
  nope: {image: base, networks: [bare], ready: {command: "false", timeout: 2s}}
  dies: {image: broken, networks: [lan]}
`)
	e := l.fails(125, "up")
	for _, want := range []string{
		`machine "never" did not come up`, "port 81 took no connection within 2s", `machine "waits" did not come up`, "starts after machine never",
		`the command "false" did not end well within 2s`, `machine "dies" did not come up`,
	} {
		if !strings.Contains(e, want) {
			t.Errorf("%q is not in\n%s", want, e)
		}
	}
	// What passed on their cards was kept, where there is something to keep it.
	for _, name := range []string{"never", "dies"} {
		saved := regexp.MustCompile(`\S+/` + name + `\.pcapng`).FindString(e)
		out, err := exec.Command(tshark, "-r", saved, "-T", "fields", "-e", "frame.interface_name").Output()
		if seen := strings.Fields(string(out)); err != nil || len(seen) == 0 || slices.ContainsFunc(seen, func(s string) bool { return s != name+"/eth0" }) {
			t.Errorf("what passed was not saved: %q: %v, %v", saved, seen, err)
		}
	}
	if strings.Count(e, ".pcapng") != 2 {
		t.Errorf("there is nothing of other machines:\n%s", e)
	}
	_, machines := l.ps()
	for name, state := range map[string]string{"never": "failed", "waits": "failed", "fine": "ready", "nope": "failed", "dies": "failed"} {
		if machines[name].State != state {
			t.Errorf("%s: %+v", name, machines[name])
		}
	}
	if e := l.fails(125, "exec", "never", "--", "true"); !strings.Contains(e, "does not run: it is failed") {
		t.Error(e)
	}
	l.file("networks: {lan: }\nmachines: {a: {networks: [lan], after: [b]}, b: {networks: [lan], after: [a]}}\n")
	if e := l.fails(2, "up"); !strings.Contains(e, "machines wait for each other: ") {
		t.Error(e)
	}
}

// TestLabKilled kills the supervisor: nothing is left, the next commands say
// so, and the lab starts again.
func TestLabKilled(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, small+"networks: {lan: }\nmachines: {anna: {networks: [lan]}, carl: {networks: [lan], backend: qemu}}\n")
	// A terminal that is closed takes nothing with it.
	x := l.atTerminalIn(t, l.dir, "up")
	select {
	case <-x.ended:
	case <-time.After(cold):
	}
	x.left(t, 0)
	x.near.Close()
	x.far.Close()
	pid, machines := l.ps()
	if machines["anna"].State != "ready" || machines["carl"].State != "ready" {
		t.Errorf("%+v", machines)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	limit := time.Now().Add(5 * time.Second)
	for left := p.processes(); len(left) > 0; left = p.processes() {
		if time.Now().After(limit) {
			t.Fatalf("left: %v", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if out := l.do("ps"); !strings.Contains(out, "dead") || !strings.Contains(out, "was killed") {
		t.Error(out)
	}
	if e := l.fails(125, "exec", "anna", "--", "true"); !strings.Contains(e, "start it again with: wolffia up") {
		t.Error(e)
	}
	if out := l.do("logs", "anna"); !strings.Contains(out, "anna") {
		t.Errorf("the log is gone: %s", out)
	}
	l.do("up")
	l.in("anna", "ping -c 1 -W 5 carl")
	l.comesBack("carl")
	l.do("down")
	l.fails(1, "down")
}
