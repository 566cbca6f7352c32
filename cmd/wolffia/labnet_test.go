package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/tooltest"
)

// TestLabVLANs keeps VLAN 10 and 20 apart on one trunk, on which a machine
// routes between them, each with a gateway of its own.
func TestLabVLANs(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small+`
networks:
  lan:
    gateway: none
    vlans:
      10: {subnet: 10.10.0.0/24}
      20: {subnet: 10.20.0.0/24}
      30:
machines:
  ten: {networks: [{network: lan, vlan: 10}], modules: [8021q]}
  ten2: {networks: [{network: lan, vlan: 10}], backend: qemu}
  twenty: {networks: [{network: lan, vlan: 20}]}
  trunk: {networks: [{network: lan, trunk: [10, 20], address: none}], modules: [8021q]}
  native: {networks: [{network: lan, trunk: [20], native: 10, address: none}], modules: [8021q]}
`)
	l.do("up")
	l.in("ten", "ping -4 -c 1 -W 5 ten2; ping -6 -c 1 -W 5 ten2; ping -c 1 -W 5 10.10.0.2")
	l.in("twenty", "ping -c 1 -W 5 10.20.0.2; ! ping -c 1 -W 1 10.10.0.15")
	local := regexp.MustCompile(`fe80::[0-9a-f:]+`).FindString(l.in("ten", "ip -6 addr show dev eth0"))
	l.in("ten2", "ping -6 -c 1 -W 5 "+local+"%eth0")
	l.in("twenty", "! ping -6 -c 2 -W 1 "+local+"%eth0")
	// A trunk's native VLAN has no tags, the other one has.
	l.in("native", `
		ip addr add 10.10.0.201/24 dev eth0
		ip link add link eth0 name eth0.20 type vlan id 20
		ip addr add 10.20.0.201/24 dev eth0.20
		ip link set eth0.20 up
		ping -c 1 -W 5 10.10.0.15; ping -c 1 -W 5 10.20.0.15`)
	// Nothing of one VLAN is to be seen in the other, not even what goes to all.
	l.in("trunk", `
		for id in 10 20; do
			ip link add link eth0 name eth0.$id type vlan id $id
			ip addr add 10.$id.0.200/24 dev eth0.$id
			ip link set eth0.$id up
		done
		ping -c 1 -W 5 10.10.0.15; ping -c 1 -W 5 10.20.0.15`)
	l.in("twenty", "ip addr add 10.10.0.99/24 dev eth0; ! ping -c 2 -W 1 10.10.0.15")
	// A tag of one's own does not get out of an access port, nor do addresses lead
	// elsewhere.
	l.in("ten", `
		ip link add link eth0 name eth0.20 type vlan id 20
		ip addr add 10.20.0.78/24 dev eth0.20
		ip link set eth0.20 up
		if ping -c 2 -W 1 10.20.0.15; then exit 1; fi
		[ $(cat /sys/class/net/eth0.20/statistics/tx_packets) != 0 ]
		ip link del eth0.20`)
	l.in("ten", "ip -4 addr flush dev eth0; ip addr add 10.20.0.77/24 dev eth0; ! ping -c 1 -W 1 10.20.0.15")
}

// packets reads ping's last words.
var (
	lossLine = regexp.MustCompile(`(\d+) packets transmitted, (\d+) packets received`)
	timeLine = regexp.MustCompile(`min/avg/max = ([\d.]+)/([\d.]+)/([\d.]+) ms`)
)

// number reads a number of ping's.
func number(t *testing.T, s string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// linkStatus is a link as net --json tells of it.
type linkStatus struct {
	Network, Name, OutImpairment, InImpairment string
	Out, In                                    traffic
}

type traffic struct {
	Frames, Duplicated, Corrupted, Reordered int
	Dropped                                  struct{ Loss int }
}

// link asks for what passed a link.
func (l *lab) link(network, name string) linkStatus {
	l.t.Helper()
	var all []linkStatus
	if err := json.Unmarshal([]byte(l.do("net", "--json")), &all); err != nil {
		l.t.Fatal(err)
	}
	for _, s := range all {
		if s.Network == network && s.Name == name {
			return s
		}
	}
	l.t.Fatalf("no link %s of %s: %+v", name, network, all)
	return linkStatus{}
}

// TestLabImpairments measures from inside what links are told to do.
func TestLabImpairments(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), `
images: {base: {packages: [busybox-static, dropbear-bin, iperf3], deps: elf}}
networks: {lan: , quiet: {subnet: 10.7.0.0/24, gateway: none}}
machines:
  anna: {networks: [lan, quiet]}
  bert: {networks: [{network: lan, link: delay 50ms}], backend: qemu}
  carl: {networks: [lan, {network: quiet, in: loss 10% seed 42}]}
`)
	l.do("up")
	// The shortest time is what the link adds: the others also tell how busy the
	// host is.
	ping := func(flags string) (got int, shortest float64) {
		out := l.in("anna", "ping -4 -q "+flags+" || true")
		n, ms := lossLine.FindStringSubmatch(out), timeLine.FindStringSubmatch(out)
		if n == nil || ms == nil {
			t.Fatal(out)
		}
		got, _ = strconv.Atoi(n[2])
		shortest, _ = strconv.ParseFloat(ms[1], 64)
		return got, shortest
	}
	// Both ways 50 ms: the rest is what an emulated machine takes.
	before := l.link("lan", "bert/eth0")
	if got, shortest := ping("-c 10 -i 0.1 -w 20 bert"); got != 10 || shortest < 100 || shortest > 130 {
		t.Errorf("%d answers, %v ms", got, shortest)
	}
	if now := l.link("lan", "bert/eth0"); now.Out.Frames < before.Out.Frames+10 || now.In.Frames < before.In.Frames+10 {
		t.Errorf("after 10 pings: %+v, before: %+v", now, before)
	}
	l.do("net", "set", "bert", "none")
	if _, shortest := ping("-c 10 -i 0.1 -w 20 bert"); shortest > 50 {
		t.Errorf("the delay is still there: %v ms", shortest)
	}
	// What is no machine's has a link of its own, and machines have nothing of it.
	l.do("net", "set", "gateway", "delay", "60ms")
	if got, shortest := ping("-c 5 -i 0.1 -w 20 10.0.2.2"); got != 5 || shortest < 120 || shortest > 150 {
		t.Errorf("the gateway: %d answers, %v ms", got, shortest)
	}
	if got, shortest := ping("-c 5 -i 0.1 -w 20 carl"); got != 5 || shortest > 50 {
		t.Errorf("beside the gateway: %d answers, %v ms", got, shortest)
	}
	l.do("net", "set", "lan/gateway", "none")
	l.do("net", "down", "gateway")
	l.in("anna", "ping -c 1 -W 5 10.0.2.17; ! ping -c 1 -W 1 10.0.2.2")
	l.do("net", "up", "gateway")
	if got, shortest := ping("-c 5 -i 0.1 -w 20 10.0.2.2"); got != 5 || shortest > 50 {
		t.Errorf("the gateway is back: %d answers, %v ms", got, shortest)
	}
	// A tenth is lost, the same tenth each time. On the quiet network nothing but
	// the test's own frames passes, as long as nobody has to ask for neighbours.
	mac := func(machine string) string {
		return strings.TrimSpace(l.in(machine, "cat /sys/class/net/eth1/address"))
	}
	l.in("anna", "echo 1 >/proc/sys/net/ipv6/conf/eth1/disable_ipv6; arp -s 10.7.0.2 "+mac("carl"))
	l.in("carl", "arp -s 10.7.0.1 "+mac("anna"))
	lost := func() (int, string) {
		l.do("net", "set", "carl/quiet", "--in", "loss", "10%", "seed", "42")
		out := l.in("anna", "ping -4 -c 300 -i 0.01 -W 1 10.7.0.2 | grep -o 'seq=[0-9]*' || true")
		return 300 - strings.Count(out, "seq="), out
	}
	first, which := lost()
	// 300 draws at 0.1: 30, with a standard deviation of 5.2.
	if float64(first) < 30-4*5.2 || float64(first) > 30+4*5.2 {
		t.Errorf("%d of 300 were lost", first)
	}
	if again, same := lost(); same != which {
		t.Errorf("%d and %d lost, or others: not the same with the same seed", first, again)
	}
	before = l.link("quiet", "carl/eth1")
	l.do("net", "set", "carl/quiet", "--in", "loss", "100%")
	l.in("anna", "! ping -4 -c 5 -i 0.01 -W 1 10.7.0.2")
	if now := l.link("quiet", "carl/eth1"); now.In.Dropped.Loss != before.In.Dropped.Loss+5 || now.In.Frames != before.In.Frames {
		t.Errorf("after a loss of all: %+v, before: %+v", now.In, before.In)
	}
	if out := l.do("net"); !regexp.MustCompile(fmt.Sprintf(`quiet +carl/eth1 .* %d \(loss %[1]d\) +out none; in loss 100%%`, before.In.Dropped.Loss+5)).MatchString(out) {
		t.Error(out)
	}
	before = l.link("quiet", "carl/eth1")
	const words = "delay 40ms jitter 30ms duplicate 10% corrupt 30% reorder 60% seed 7"
	l.do(append([]string{"net", "set", "carl/quiet", "--in"}, strings.Fields(words)...)...)
	l.in("anna", "ping -4 -q -c 100 -i 0.01 -W 1 10.7.0.2 || true")
	now := l.link("quiet", "carl/eth1")
	if now.InImpairment != words || now.OutImpairment != "none" {
		t.Errorf("%q, %q", now.InImpairment, now.OutImpairment)
	}
	for what, c := range map[string]struct{ got, want int }{
		"duplicated": {now.In.Duplicated - before.In.Duplicated, 10},
		"corrupted":  {now.In.Corrupted - before.In.Corrupted, 30},
		"reordered":  {now.In.Reordered - before.In.Reordered, 60},
	} {
		if deviation := math.Sqrt(float64(c.want*(100-c.want)) / 100); math.Abs(float64(c.got-c.want)) > 4*deviation {
			t.Errorf("%d of 100 are %s, want %d", c.got, what, c.want)
		}
	}
	if got, want := now.In.Frames-before.In.Frames, 100+now.In.Duplicated-before.In.Duplicated; got != want {
		t.Errorf("%d frames came, want %d", got, want)
	}
	// Jitter alone: pings take from 10 to 70 ms.
	l.do("net", "set", "carl/quiet", "--in", "delay", "40ms", "jitter", "30ms", "seed", "7")
	ms := timeLine.FindStringSubmatch(l.in("anna", "ping -4 -q -c 20 -i 0.1 -W 5 10.7.0.2"))
	if shortest, longest := number(t, ms[1]), number(t, ms[3]); shortest < 10 || shortest > 30 || longest < 55 {
		t.Errorf("from %v to %v ms", shortest, longest)
	}
	// A rate, by iperf3, which sends half as much again: TCP on a busy host may
	// send less.
	l.do("net", "set", "anna/lan", "rate", "10Mbit")
	server := l.start(t, call{dir: l.dir}, "exec", "carl", "--", "iperf3", "--forceflush", "-s", "-1")
	server.out.expect(t, "Server listening")
	var result struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(l.in("anna", "iperf3 -4 -J -c carl -u -b 15M -l 1400 -t 8 -O 1")), &result); err != nil {
		t.Fatal(err)
	}
	// iperf3 counts what UDP carries: 1400 of 1442 bytes of each frame.
	const want = 10e6 * 1400 / 1442
	if got := result.End.SumReceived.BitsPerSecond; math.Abs(got-want) > 0.05*want {
		t.Errorf("%.0f bit/s, want %.0f", got, want)
	} else {
		t.Logf("%.0f bit/s, want %.0f", got, want)
	}
	// The file says it, too, without a restart.
	l.in("anna", "echo 1 >/root/life")
	l.file(`
images: {base: {packages: [busybox-static, dropbear-bin, iperf3], deps: elf}}
networks: {lan: , quiet: {subnet: 10.7.0.0/24, gateway: none}}
machines:
  anna: {networks: [{network: lan, out: delay 80ms}, quiet]}
  bert: {networks: [lan], backend: qemu}
  carl: {networks: [lan, quiet]}
`)
	l.do("up")
	l.in("anna", "test -e /root/life")
	if _, shortest := ping("-c 5 -i 0.1 carl"); shortest < 80 || shortest > 110 {
		t.Errorf("%v ms", shortest)
	}
}

// Scripts that hold when no IPv4 packet was cut into pieces, or put together from
// some, since the machine's start, and when some were.
const (
	whole  = "awk '/^Ip: [0-9]/ && $15+$20 == 0 {ok = 1} END {exit !ok}' /proc/net/snmp"
	pieced = "awk '/^Ip: [0-9]/ && $15 > 0 && $20 > 0 {ok = 1} END {exit !ok}' /proc/net/snmp"
)

// TestLabCarrier pulls cables out of a network for large packets.
func TestLabCarrier(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small+`
networks: {lan: {mtu: 9000}}
machines:
  anna: {networks: [{network: lan, down: true}]}
  bert: {networks: [{network: lan, down: true}], backend: qemu}
`)
	l.do("up")
	carrier := func(machine, want string) {
		t.Helper()
		l.in(machine, "until [ $(cat /sys/class/net/eth0/carrier) = "+want+" ]; do sleep 0.1; done")
	}
	carrier("bert", "0")
	carrier("anna", "1") // a User-Mode Linux can't see it
	l.do("net", "up", "bert/lan")
	carrier("bert", "1")
	l.in("bert", "! ping -c 1 -W 1 10.0.2.15")
	l.do("net", "up", "anna")
	for _, m := range []string{"anna", "bert"} { // an address by DHCP may come only now
		l.in(m, "until ping -4 -c 1 -W 1 gateway; do sleep 0.1; done")
	}
	for m, to := range map[string]string{"anna": "bert", "bert": "anna"} {
		l.in(m, fmt.Sprintf("for to in %s gateway; do ping -4 -c 1 -W 5 -s %d $to; done; ", to, largest)+whole)
	}
	// One byte more goes in two pieces.
	l.in("anna", fmt.Sprintf("ping -4 -c 1 -W 5 -s %d bert; ", largest+1)+pieced)
	l.do("net", "down", "bert/lan")
	carrier("bert", "0")
	l.in("anna", "! ping -c 1 -W 1 bert")
	if out := l.do("net"); !regexp.MustCompile(`lan +bert/eth0 +down`).MatchString(out) {
		t.Error(out)
	}
	l.do("restart", "bert") // it stays out
	carrier("bert", "0")
	l.do("net", "up", "bert/lan")
	carrier("bert", "1")
	l.in("anna", "until ping -c 1 -W 1 bert; do sleep 0.1; done")
	l.do("net", "down", "anna")
	l.in("bert", "! ping -c 1 -W 1 anna")
	l.do("restart", "anna") // it stays out
	l.in("bert", "! ping -c 1 -W 1 anna")
	l.do("net", "up", "anna")
	l.in("bert", "until ping -c 1 -W 1 anna; do sleep 0.1; done")
	for _, args := range [][]string{
		{"net", "set", "anna", "delya", "50ms"}, {"net", "set", "anna/lna", "none"}, {"net", "set", "nobody", "none"},
		{"net", "down"}, {"net", "set", "anna", "loss", "110%"},
	} {
		l.fails(2, args...)
	}
}

// TestLabCapture captures a network and a machine, live and from what is kept,
// as tshark reads it.
func TestLabCapture(t *testing.T) {
	parallel(t)
	tshark, tcpdump := tooltest.Require(t, "tshark", "tshark"), tooltest.Require(t, "tcpdump", "tcpdump")
	p := newPerson(t)
	l := newLab(t, p, small+`
networks: {lan: , side: {subnet: 10.7.0.0/24, gateway: none}}
machines:
  anna: {networks: [lan, side]}
  bert: {networks: [{network: lan, in: loss 30% seed 3}]}
`)
	l.do("up")
	read := func(file string, args ...string) string {
		t.Helper()
		out, err := exec.Command(tshark, append([]string{"-r", filepath.Join(l.dir, file)}, args...)...).Output()
		if err != nil {
			t.Fatalf("tshark: %v", err)
		}
		return string(out)
	}
	// kinds counts the frames that differ in what they came by, what became of them,
	// and what they say.
	kinds := func(file string) map[string]int {
		seen := map[string]int{}
		for row := range strings.Lines(read(file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment", "-e", "icmp.type")) {
			seen[strings.TrimSuffix(row, "\n")]++
		}
		return seen
	}
	live := l.start(t, call{dir: l.dir}, "capture", "lan", "-w", "live.pcapng", "-c", "40", "icmp and host bert")
	own := l.start(t, call{dir: l.dir}, "capture", "anna", "-w", "own.pcapng", "-c", "20", "icmp")
	shown := l.start(t, call{dir: l.dir}, "capture", "lan", "-c", "3", "icmp")
	piped := l.start(t, call{dir: l.dir, wrap: []string{"sh", "-c", `"$0" "$@" | ` + tcpdump + " -n -r -"}}, "capture", "lan", "-c", "5", "-w", "-", "icmp")
	for _, r := range []*running{live, own, shown, piped} {
		eventually(t, patience, "a capture has its frames", func() bool {
			l.in("anna", "ping -4 -c 10 -i 0.01 -W 1 bert >/dev/null || true")
			select {
			case <-r.ended:
				return true
			default:
				return false
			}
		})
		if status := r.end(t); status != 0 {
			t.Fatal(r.err)
		}
	}
	for r, frames := range map[*running]int{shown: 3, piped: 5} {
		if out := r.out.String(); strings.Count(out, "\n") != frames || strings.Count(out, " ICMP echo re") != frames {
			t.Errorf("%d frames were to be shown, and it says %q", frames, out)
		}
	}
	// Of a machine, what passes its own card, both ways.
	if seen := kinds("own.pcapng"); seen["anna/eth0\t\t8"] == 0 || seen["anna/eth0\t\t0"] == 0 || len(seen) != 2 {
		t.Errorf("%v", seen)
	}
	// Requests enter at anna's card and answers at bert's; what is lost is lost
	// on bert's link.
	seen := kinds("live.pcapng")
	requests, answers, lost := seen["anna/eth0\t\t8"], seen["bert/eth0\t\t0"], seen["bert/eth0\tdropped: loss\t8"]
	if requests+answers+lost != 40 || requests == 0 || answers == 0 || lost == 0 || len(seen) != 3 {
		t.Errorf("%v", seen)
	}
	// What has passed already, of one machine: both ways.
	l.in("anna", "nslookup gateway.lan >/dev/null; ping -4 -c 3 -i 0.01 10.0.2.2 >/dev/null")
	l.do("capture", "anna", "--last", "10m", "-w", "last.pcapng", "udp port 53 or (icmp and host gateway)")
	names := read("last.pcapng", "-Y", "dns.qry.name == gateway.lan", "-T", "fields", "-e", "dns.flags.response", "-e", "frame.interface_name")
	if !strings.Contains(names, "0\tanna/eth0") && !strings.Contains(names, "False\tanna/eth0") || !strings.Contains(names, "1\tanna/eth0") && !strings.Contains(names, "True\tanna/eth0") {
		t.Errorf("%q", names)
	}
	// A machine with two networks has the frames of both in one file. What is older
	// than what is asked for is left out.
	l.in("anna", "! ping -c 1 -W 1 10.7.0.99")
	asked := func(last string) string {
		l.do("capture", "anna", "--last", last, "-w", "asked.pcapng", "(icmp and host gateway) or (arp and host 10.7.0.99)")
		return read("asked.pcapng", "-T", "fields", "-e", "frame.interface_name", "-e", "_ws.col.Protocol")
	}
	if out := asked("10m"); !strings.Contains(out, "anna/eth0\tICMP\n") || !strings.Contains(out, "anna/eth1\tARP\n") {
		t.Errorf("%q", out)
	}
	eventually(t, patience, "what was there is not in the last second", func() bool { return asked("1s") == "" })
	if out := asked("10m"); !strings.Contains(out, "anna/eth0\tICMP\n") {
		t.Errorf("what is older than a second is gone: %q", out)
	}
	// Who reads it no more ends it, though nothing comes that would show that.
	for _, args := range [][]string{{"capture", "lan", "-w", "-", "host 192.0.2.1"}, {"logs", "anna", "--follow"}} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := l.command(ctx, call{dir: l.dir}, args...)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(out, make([]byte, 4))
		out.Close()
		cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); err != nil || status != 128+13 {
			t.Errorf("%s: status %d, %v", args, status, err)
		}
		cancel()
	}
	if e := l.fails(2, "capture", "lan", "-w", "x", "tpc port 80"); !strings.Contains(e, "column 1") {
		t.Error(e)
	}
	if e := l.fails(2, "capture", "lam", "-w", "x"); !strings.Contains(e, `did you mean "lan"?`) {
		t.Error(e)
	}
}

// TestLabMany has thirty machines that all reach each other.
func TestLabMany(t *testing.T) {
	p := newPerson(t) // with the whole host: not beside others
	var file strings.Builder
	file.WriteString(small + "networks: {lan: }\nmachines:\n")
	const many = 30
	for i := range many {
		fmt.Fprintf(&file, "  m%d: {networks: [lan], memory: 64M}\n", i)
	}
	l := newLab(t, p, file.String())
	began := time.Now()
	l.do("up")
	t.Logf("up after %v", time.Since(began))
	keepers := 0
	for _, line := range p.processes() {
		if strings.HasPrefix(line, "wolffia-keeper") {
			keepers++
		}
	}
	if keepers != 1 {
		t.Errorf("%d processes hold the machines", keepers)
	}
	// All ask all of them, each one after the other. Busybox's ping hears of other
	// machines' requests, too, and has room for some fifteen: with all thirty at it
	// on a busy host, an answer that had come to the machine's card got lost there.
	turns := make(chan struct{}, 8)
	var script strings.Builder
	for i := range many {
		fmt.Fprintf(&script, "ping -4 -c 1 -W 10 m%d >/dev/null && echo reached\n", i)
	}
	var asking sync.WaitGroup
	for i := range many {
		asking.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			o := l.try(t, call{dir: l.dir}, "exec", fmt.Sprintf("m%d", i), "--", "sh", "-c", script.String())
			if strings.Count(o.out, "reached") != many {
				t.Errorf("m%d: %v", i, o)
			}
		})
	}
	asking.Wait()
	t.Logf("memory per machine: %d KiB", p.memory()/many/1024)
	began = time.Now()
	l.do("down")
	t.Logf("down after %v", time.Since(began))
}

// memory is what the person's processes use of the host's, in bytes: pages that
// several share count once.
func (p *person) memory() (bytes int) {
	for pid := range p.processes() {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		if err != nil {
			continue // it has ended meanwhile
		}
		for line := range strings.SplitSeq(string(data), "\n") {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kib, _ := strconv.Atoi(f[1])
				bytes += kib << 10
			}
		}
	}
	return bytes
}
