package capture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wolffia/internal/tooltest"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/capture/filter"
)

var (
	macA  = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB  = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	alice = Interface{Name: "alice/eth0", Description: "network lan", MAC: macA}
	bob   = Interface{Name: "bob/eth0", Description: "network lan", MAC: macB}
	epoch = time.Unix(1700000000, 123456789)
)

// frame is a UDP datagram from 10.0.0.1 to 10.0.0.2 port 53, of size bytes.
func frame(size int) []byte {
	b := make([]byte, max(size, 42))
	copy(b, macB)
	copy(b[6:], macA)
	b[12] = 8
	b[14], b[22], b[23] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	copy(b[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	copy(b[34:], []byte{0x40, 0, 0, 53})
	binary.BigEndian.PutUint16(b[38:], uint16(len(b)-34))
	return b
}

func seen(after time.Duration, in bool, dropped string, size int) vnet.Observation {
	return vnet.Observation{Time: epoch.Add(after), In: in, Dropped: dropped, Frame: vnet.Frame{Data: frame(size)}}
}

func parse(t testing.TB, expression string) *filter.Filter {
	t.Helper()
	f, err := filter.Parse(expression, filter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// count walks the blocks of a file and counts each type.
func count(t *testing.T, file []byte) map[uint32]int {
	t.Helper()
	kinds := map[uint32]int{}
	for at := 0; at < len(file); {
		n := int(le.Uint32(file[at+4:]))
		if n < 12 || n%4 != 0 || at+n > len(file) || le.Uint32(file[at+n-4:]) != uint32(n) {
			t.Fatalf("a block at %d of %d has %d bytes", at, len(file), n)
		}
		kinds[le.Uint32(file[at:])]++
		at += n
	}
	return kinds
}

func tool(t *testing.T, file []byte, name, debianPackage string, args ...string) string {
	t.Helper()
	c := exec.Command(tooltest.Require(t, name, debianPackage), args...)
	c.Stdin = bytes.NewReader(file)
	var complaint strings.Builder
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, complaint.String())
	}
	return string(out)
}

// fields gives what tshark reads from a file: a line for each frame.
func fields(t *testing.T, file []byte, names ...string) string {
	t.Helper()
	args := []string{"-r", "-", "-n", "-T", "fields", "-E", "separator=|"}
	for _, n := range names {
		args = append(args, "-e", n)
	}
	return tool(t, file, "tshark", "tshark", args...)
}

func TestGoldenBytes(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out, Header{})
	if _, err := w.AddInterface(Interface{Name: "a/eth0", MAC: macA}); err != nil {
		t.Fatal(err)
	}
	p := Packet{Time: epoch, In: true, Data: []byte{1, 2, 3, 4, 5}, Length: 9, Dropped: "loss", Lost: 7}
	if err := errors.Join(w.WritePacket(p), w.Flush()); err != nil {
		t.Fatal(err)
	}
	const golden = "" +
		"0a0d0d0a 2c000000 4d3c2b1a 0100 0000 ffffffffffffffff" + // section header
		"0400 0700 776f6c6666696100 0000 0000 2c000000" +
		"01000000 38000000 0100 0000 00000400" + // interface description
		"0200 0600 612f657468300000 0600 0600 02000000000a0000 0900 0100 09000000 0000 0000 38000000" +
		"06000000 54000000 00000000 fe9c9717 15cd853d 05000000 09000000 0102030405000000" + // enhanced packet
		"0200 0400 01000000 0400 0800 0700000000000000 0100 0d00 64726f707065643a206c6f7373000000 0000 0000 54000000"
	want := strings.ReplaceAll(golden, " ", "")
	if got := hex.EncodeToString(out.Bytes()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestToolsReadALiveCapture(t *testing.T) {
	var out bytes.Buffer
	l := NewLive(&out, LiveOptions{
		Header: Header{Hardware: "test", OS: "Linux", Comment: "what for"},
		Hosts:  []Host{{Name: "alice", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}}, {Name: ""}},
	})
	a := l.Interface(alice)
	a.Observe(seen(0, false, "", 100))
	b := l.Interface(bob) // comes later
	b.Observe(seen(time.Millisecond, true, "loss", 100))
	large := seen(2*time.Millisecond, false, "", 9000)
	large.Frame.Offload = vnet.Offload{NeedsChecksum: true, SegmentType: vnet.SegmentTCPv4, SegmentSize: 1448}
	a.Observe(large)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := fields(t, out.Bytes(), "frame.interface_name", "frame.interface_description", "frame.packet_flags_direction", "frame.time_epoch", "frame.len", "frame.comment", "frame.packet_flags")
	want := "alice/eth0|network lan|0x00000002|1700000000.123456789|100||0x00000002\n" +
		"bob/eth0|network lan|0x00000001|1700000000.124456789|100|dropped: loss|0x00000001\n" +
		"alice/eth0|network lan|0x00000002|1700000000.125456789|9000||0x00000a02\n"
	if got != want {
		t.Errorf("tshark read\n%s\nwant\n%s", got, want)
	}
	marked := tool(t, out.Bytes(), "tshark", "tshark", "-r", "-", "-n", "-Y", "frame.comment", "-T", "fields", "-e", "frame.number")
	if marked != "2\n" {
		t.Errorf("frames with a comment: %q", marked)
	}
	names := tool(t, out.Bytes(), "tshark", "tshark", "-r", "-", "-N", "n", "-T", "fields", "-e", "ip.src_host", "-c", "1")
	if names != "alice\n" {
		t.Errorf("the source's name: %q", names)
	}
	if lines := tool(t, out.Bytes(), "tcpdump", "tcpdump", "-r", "-", "-n", "udp and greater 9000"); strings.Count(lines, "\n") != 1 {
		t.Errorf("tcpdump read %q", lines)
	}
	info := tool(t, out.Bytes(), "capinfos", "wireshark-common", "-")
	for _, want := range []string{
		"nanoseconds (9)", "Number of packets:   3", "Number of interfaces in file: 2", "Name = alice/eth0", "Description = network lan",
		"Capture application: wolffia", "Capture hardware:    test", "Capture oper-sys:    Linux", "Capture comment:     what for", "Number of stat entries = 1",
	} {
		if !strings.Contains(info, want) {
			t.Errorf("capinfos does not say %q:\n%s", want, info)
		}
	}
}

// Wireshark and tshark follow a capture through a pipe, also when an interface
// comes in the middle.
func TestWiresharkFollowsALiveCapture(t *testing.T) {
	tooltest.Require(t, "dumpcap", "wireshark-common")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c := exec.Command(tooltest.Require(t, "tshark", "tshark"), "-l", "-n", "-i", "-", "-T", "fields", "-E", "separator=|",
		"-e", "frame.interface_name", "-e", "frame.len", "-e", "frame.comment")
	var complaint strings.Builder
	c.Stdin, c.Stderr = r, &complaint
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = c.Start()
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	l := NewLive(w, LiveOptions{})
	see := func(o vnet.Observer, dropped string, size int, want string) {
		t.Helper()
		o.Observe(seen(0, false, dropped, size))
		if lines.Scan(); lines.Text() != want {
			t.Errorf("tshark shows %q, want %q", lines.Text(), want)
		}
	}
	a := l.Interface(alice)
	see(a, "", 100, "alice/eth0|100|")
	see(l.Interface(bob), "loss", 200, "bob/eth0|200|dropped: loss")
	see(a, "", 300, "alice/eth0|300|")
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	w.Close()
	for lines.Scan() {
		t.Errorf("and then tshark shows %q", lines.Text())
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, complaint.String())
	}
}

// A reader sees each frame at once, not only when a buffer is full.
func TestLiveDoesNotHoldBack(t *testing.T) {
	r, w := io.Pipe()
	l := NewLive(w, LiveOptions{})
	read := func(want ...uint32) {
		t.Helper()
		for _, kind := range want {
			head := make([]byte, 8)
			if _, err := io.ReadFull(r, head); err != nil {
				t.Fatal(err)
			}
			if got := le.Uint32(head); got != kind {
				t.Fatalf("block %#x, want %#x", got, kind)
			}
			if _, err := io.CopyN(io.Discard, r, int64(le.Uint32(head[4:]))-8); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(sectionHeader)
	a := l.Interface(alice)
	read(interfaceDescription)
	for range 3 {
		a.Observe(seen(0, false, "", 60))
		read(enhancedPacket)
	}
	go func() { _ = l.Close(context.Background()) }()
	read(interfaceStatistics)
	<-l.Done()
}

// A reader that does not read costs frames, never time, and the file says so.
func TestSlowReaderMissesFrames(t *testing.T) {
	r, w := io.Pipe()
	l := NewLive(w, LiveOptions{Queue: 1 << 18})
	a := l.Interface(alice)
	const total = 2000
	for i := range total {
		a.Observe(seen(time.Duration(i), false, "", 1500))
	}
	taken, missed := l.Counts()
	if missed == 0 || taken+missed != total {
		t.Fatalf("%d taken, %d missed", taken, missed)
	}
	var file []byte
	var wg sync.WaitGroup
	wg.Go(func() { file, _ = io.ReadAll(r) })
	// Room again: the next frame carries the count of those before it.
	for after := taken; after == taken; after, _ = l.Counts() {
		a.Observe(seen(total, true, "", 60))
	}
	_, missed = l.Counts()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	wg.Wait()
	if n := count(t, file)[enhancedPacket]; n != int(taken)+1 {
		t.Errorf("%d frames in the file, want %d", n, taken+1)
	}
	if !bytes.Contains(file, fmt.Appendf(nil, "missed %d frames", missed)) {
		t.Errorf("the statistics do not tell of %d frames", missed)
	}
	drop := binary.LittleEndian.AppendUint64([]byte{epbDropCount, 0, 8, 0}, missed)
	if !bytes.Contains(file, drop) {
		t.Error("no frame carries the number of frames missed before it")
	}
}

func TestCloseInterruptsAStuckReader(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	l := NewLive(ours, LiveOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Close(ctx); err == nil {
		t.Error("a file that nobody read was written")
	}
}

func TestLiveEndsWhenItsReaderGoes(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	l := NewLive(w, LiveOptions{})
	<-l.Done()
	l.Interface(alice).Observe(seen(0, false, "", 60))
	if err := l.Close(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

func TestLiveCountSnaplenAndFilter(t *testing.T) {
	var out bytes.Buffer
	l := NewLive(&out, LiveOptions{Count: 2, Filter: parse(t, "udp port 53 and greater 500"), Header: Header{Snaplen: 96}})
	a := l.Interface(alice)
	for _, size := range []int{100, 600, 200, 700, 800} {
		a.Observe(seen(0, false, "", size))
	}
	<-l.Done()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fields(t, out.Bytes(), "frame.len", "frame.cap_len"); got != "600|96\n700|96\n" {
		t.Errorf("got %q", got)
	}
}

func TestDirections(t *testing.T) {
	all := []vnet.Observation{
		seen(1, false, "", 61), seen(2, false, "queue", 62), seen(3, true, "", 63), seen(4, true, "loss", 64),
	}
	for d, want := range map[Direction]string{
		Both: "61 62 63 64", Out: "61 62", In: "63 64", Once: "61 62 64",
	} {
		r := NewRing(RingOptions{Direction: d})
		o := r.Interface(alice)
		for _, seen := range all {
			o.Observe(seen)
		}
		whole := NewRing(RingOptions{})
		o = whole.Interface(alice)
		for _, seen := range all {
			o.Observe(seen)
		}
		for _, s := range []struct {
			ring *Ring
			Selection
		}{{r, Selection{}}, {whole, Selection{Direction: d}}} {
			var got []string
			for _, r := range s.ring.copy(s.Selection).records {
				got = append(got, fmt.Sprint(r.length))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("direction %d: %v, want %s", d, got, want)
			}
		}
	}
}

func TestRingKeepsTheNewest(t *testing.T) {
	const size = 100 << 10
	r := NewRing(RingOptions{Size: size, Snaplen: 300})
	a, b := r.Interface(alice), r.Interface(bob)
	for i := range 5000 {
		reason := ""
		if i%7 == 0 {
			reason = "loss"
		}
		o := seen(time.Duration(i)*time.Second, i%2 == 0, reason, 60+i%900)
		if i%3 == 0 {
			b.Observe(o)
		} else {
			a.Observe(o)
		}
		if s := r.Stats(); s.Bytes > size || s.Frames+int(s.Gone) != i+1 {
			t.Fatalf("after %d frames: %+v", i+1, s)
		}
	}
	s := r.Stats()
	if s.Bytes < size-2*(300+recordHeader) || s.Gone == 0 || cap(r.frames.block) > size {
		t.Fatalf("%+v", s)
	}
	var out bytes.Buffer
	n, err := Dump(&out, Selection{}, r)
	if err != nil || n != s.Frames {
		t.Fatalf("%d frames of %d, %v", n, s.Frames, err)
	}
	lines := strings.Split(strings.TrimSpace(fields(t, out.Bytes(), "frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name", "frame.comment")), "\n")
	for at, line := range lines {
		i := 5000 - n + at
		name, reason := "alice/eth0", ""
		if i%3 == 0 {
			name = "bob/eth0"
		}
		if i%7 == 0 {
			reason = "dropped: loss"
		}
		length := 60 + i%900
		want := fmt.Sprintf("%d.123456789|%d|%d|%s|%s", 1700000000+i, length, min(length, 300), name, reason)
		if line != want {
			t.Fatalf("line %d: %s, want %s", at, line, want)
		}
	}
	out.Reset()
	n, err = Dump(&out, Selection{
		Since: epoch.Add(4900 * time.Second), Filter: parse(t, "udp and less 300"),
		Interface: func(i Interface) bool { return i.Name == "bob/eth0" },
		Hosts:     []Host{{Name: "alice", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
	}, r)
	wanted := 0
	for i := 4900; i < 5000; i++ {
		if i%3 == 0 && 60+i%900 <= 300 {
			wanted++
		}
	}
	kinds := count(t, out.Bytes())
	if err != nil || n != wanted || kinds[enhancedPacket] != n || kinds[interfaceDescription] != 1 || kinds[interfaceStatistics] != 1 || kinds[nameResolution] != 1 {
		t.Errorf("%d frames, want %d; %v; %v", n, wanted, kinds, err)
	}
}

// TestRingsInOneFile: each ring had a section of its own, and tshark took the
// interfaces of the second one for those of the first.
func TestRingsInOneFile(t *testing.T) {
	lan, far := NewRing(RingOptions{}), NewRing(RingOptions{Snaplen: 300})
	first, second := lan.Interface(alice), far.Interface(Interface{Name: "alice/eth1", Description: "far"})
	first.Observe(seen(time.Second, false, "", 61))
	second.Observe(seen(2*time.Second, false, "loss", 1000))
	first.Observe(seen(3*time.Second, true, "", 63))
	second.Observe(seen(4*time.Second, true, "", 64))
	var out bytes.Buffer
	n, err := Dump(&out, Selection{}, lan, far)
	want := "alice/eth0|61|\nalice/eth1|1000|dropped: loss\nalice/eth0|63|\nalice/eth1|64|\n"
	if got := fields(t, out.Bytes(), "frame.interface_name", "frame.len", "frame.comment"); got != want || n != 4 || err != nil {
		t.Errorf("%d frames, %v:\n%s", n, err, got)
	}
	if kinds := count(t, out.Bytes()); kinds[sectionHeader] != 1 || kinds[interfaceDescription] != 2 || kinds[interfaceStatistics] != 2 {
		t.Errorf("%v", kinds)
	}
	tool(t, out.Bytes(), "tcpdump", "tcpdump", "-n", "-r", "-")
}

func TestRingDoesNotAllocate(t *testing.T) {
	r := NewRing(RingOptions{Size: 1 << 16})
	a := r.Interface(alice)
	plain, lost := seen(0, false, "", 1514), seen(0, true, "loss", 70000)
	if n := testing.AllocsPerRun(1000, func() { a.Observe(plain); a.Observe(lost) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Frames come from all links at once, interfaces come and go, while two dump.
func TestRingAndLiveWithEverythingAtOnce(t *testing.T) {
	r := NewRing(RingOptions{Size: 1 << 16})
	var out bytes.Buffer
	l := NewLive(&out, LiveOptions{Queue: 1 << 17})
	var links, dumps sync.WaitGroup
	for m := range 4 {
		links.Go(func() {
			for k := range 10 {
				i := Interface{Name: fmt.Sprintf("m%d/eth%d", m, k%3)}
				for _, o := range []vnet.Observer{r.Interface(i), l.Interface(i)} {
					for n := range 100 {
						o.Observe(seen(time.Duration(n), n%2 == 0, []string{"", "loss"}[n%2], 60+n*20))
					}
				}
			}
		})
	}
	for range 2 {
		dumps.Go(func() {
			for range 20 {
				var dump bytes.Buffer
				n, err := Dump(&dump, Selection{}, r)
				if got := count(t, dump.Bytes())[enhancedPacket]; err != nil || got != n {
					t.Errorf("%d frames, the file has %d; %v", n, got, err)
				}
			}
		})
	}
	links.Wait()
	dumps.Wait()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken, missed := l.Counts()
	kinds := count(t, out.Bytes())
	if taken+missed != 4000 || kinds[enhancedPacket] != int(taken) || kinds[interfaceDescription] != 12 || kinds[interfaceStatistics] != 12 {
		t.Errorf("taken %d, missed %d, in the file %v", taken, missed, kinds)
	}
}

func TestNamesAreBounded(t *testing.T) {
	var n names
	for i := range maxInterfaces + 10 {
		n.add(Interface{Name: fmt.Sprint(i)})
		n.number(fmt.Sprint(i))
	}
	if len(n.interfaces) != maxInterfaces || n.add(Interface{Name: "late"}) != maxInterfaces-1 || n.interfaces[maxInterfaces-1].Name != others {
		t.Errorf("%d interfaces", len(n.interfaces))
	}
	if len(n.reasons) != maxReasons || n.reason(n.number("late")) != others || n.reason(n.number("7")) != "7" || n.reason(0) != "" {
		t.Errorf("%d reasons", len(n.reasons))
	}
}

func TestTextIsMadeFit(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out, Header{})
	_, err := w.AddInterface(Interface{Name: strings.Repeat("é", 1000) + "\xff"})
	err = errors.Join(err, w.AddHosts([]Host{{Name: "a\x00b\xff", Addrs: []netip.Addr{{}, netip.MustParseAddr("::1")}}}), w.Flush())
	if err != nil {
		t.Fatal(err)
	}
	count(t, out.Bytes())
	if !bytes.Contains(out.Bytes(), []byte("ab\x00")) || slices.Max(out.Bytes()) != 0xff {
		t.Error("names are not written as they should")
	}
	if w.WritePacket(Packet{Interface: 1}) == nil || w.WriteStatistics(Statistics{Interface: -1}) == nil {
		t.Error("an interface that is not there was taken")
	}
}

func BenchmarkRing(b *testing.B) {
	for _, size := range []int{64, 1514, 65000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			o := NewRing(RingOptions{}).Interface(alice)
			f := seen(0, false, "", size)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					o.Observe(f)
				}
			})
		})
	}
}

func BenchmarkLive(b *testing.B) {
	for _, size := range []int{64, 1514, 65000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := NewLive(io.Discard, LiveOptions{Filter: parse(b, "udp port 53")})
			o := l.Interface(alice)
			f := seen(0, false, "", size)
			b.SetBytes(int64(size))
			for b.Loop() {
				o.Observe(f)
			}
			_, missed := l.Counts()
			b.ReportMetric(float64(missed)/float64(b.N), "missed/op")
			if err := l.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkDump(b *testing.B) {
	r := NewRing(RingOptions{})
	o := r.Interface(alice)
	for range 20000 {
		o.Observe(seen(0, false, "", 1514))
	}
	f := parse(b, "udp port 53")
	for b.Loop() {
		if _, err := Dump(io.Discard, Selection{Filter: f}, r); err != nil {
			b.Fatal(err)
		}
	}
}
