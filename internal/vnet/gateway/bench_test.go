package gateway_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"wolffia/internal/tooltest"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/gateway"
)

// BenchmarkTCP measures a tap in a guest's namespace to a server on the host's
// loopback by iperf3: through a switch and the gateway, and through
// slirp4netns. Run it with -benchtime 1x.
func BenchmarkTCP(b *testing.B) {
	setups := []struct {
		name string
		make func(b *testing.B) *guest
	}{
		{"gateway", func(b *testing.B) *guest { return newStatic(b, gateway.Config{}).guest }},
		{"gateway-offload", func(b *testing.B) *guest { return newDirect(b, true) }},
		{"slirp4netns", newSlirp},
	}
	for _, s := range setups {
		for _, dir := range []string{"up", "down"} {
			b.Run(s.name+"/"+dir, func(b *testing.B) {
				port := iperfServer(b)
				g := s.make(b)
				for range b.N {
					before := cpuTime(b, g.router)
					rate, bytes := iperf(b, g, port, dir)
					b.ReportMetric(rate, "Gbit/s")
					b.ReportMetric((cpuTime(b, g.router)-before)/bytes*(1<<30), "cpu-s/GiB")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// newDirect is a guest without a switch between it and the gateway.
func newDirect(b *testing.B, vnetHdr bool) *guest {
	g := newGuest(b, vnetHdr)
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	if _, err := sw.Attach(g.port, vnet.PortOptions{}); err != nil {
		b.Fatal(err)
	}
	inside, err := sw.Plug(vnet.PortOptions{Offloads: true, Queue: gateway.PortQueue})
	if err != nil {
		b.Fatal(err)
	}
	gw, err := gateway.New(inside, gateway.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { gw.Close(); sw.Close() })
	g.static()
	return g
}

func newSlirp(b *testing.B) *guest {
	tooltest.Require(b, "slirp4netns", "slirp4netns")
	g := newGuest(b, false)
	g.port.Close()
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("slirp4netns", "--configure", "--mtu=1500", "--ready-fd=3", strconv.Itoa(g.pid), "tap0")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	g.router = cmd.Process.Pid
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		b.Fatalf("slirp4netns: %v", err)
	}
	return g
}

func iperfServer(b *testing.B) string {
	tooltest.Require(b, "iperf3", "iperf3")
	const port = "5201"
	cmd := exec.Command("iperf3", "-s", "-B", "127.0.0.1", "-p", port, "--forceflush")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.Contains(s.Text(), "Server listening") {
			return port
		}
	}
	b.Fatal("iperf3 does not listen")
	return ""
}

func iperf(b *testing.B, g *guest, port, dir string) (rate, bytes float64) {
	args := []string{"iperf3", "-c", "10.0.2.2", "-p", port, "-t", "4", "-J"}
	if dir == "down" {
		args = append(args, "-R")
	}
	time.Sleep(100 * time.Millisecond)
	var result struct {
		End struct {
			Received struct {
				BPS   float64 `json:"bits_per_second"`
				Bytes float64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(g.run(args...)), &result); err != nil {
		b.Fatal(err)
	}
	return result.End.Received.BPS / 1e9, result.End.Received.Bytes
}

// cpuTime is what the process that routes has used so far, in seconds: pid, or
// this one.
func cpuTime(b *testing.B, pid int) float64 {
	if pid == 0 {
		pid = os.Getpid()
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	// proc_pid_stat(5): after the name, utime and stime are words 12 and 13, in
	// hundredths of a second.
	words := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseFloat(words[11], 64)
	sys, _ := strconv.ParseFloat(words[12], 64)
	return (user + sys) / 100
}
