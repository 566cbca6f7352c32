package vnet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"wolffia/internal/vnet"
)

func TestVLANCheck(t *testing.T) {
	for _, c := range []struct {
		vlan vnet.VLAN
		want string // part of the error; empty means none
	}{
		{vnet.VLAN{}, ""},
		{vnet.VLAN{Access: 1}, ""},
		{vnet.VLAN{Access: 4094}, ""},
		{vnet.VLAN{Trunk: []int{10, 20}}, ""},
		{vnet.VLAN{Trunk: []int{10, 20}, Native: 10}, ""},
		{vnet.VLAN{Trunk: []int{10, 20}, Native: 1}, ""},
		{vnet.VLAN{All: true}, ""},
		{vnet.VLAN{All: true, Native: 4094}, ""},
		{vnet.VLAN{Access: -1}, "no VLAN -1"},
		{vnet.VLAN{Access: 4095}, "no VLAN 4095: they are 1 to 4094"},
		{vnet.VLAN{Trunk: []int{10, 0}}, "no VLAN 0"},
		{vnet.VLAN{Trunk: []int{10}, Native: 4096}, "no VLAN 4096"},
		{vnet.VLAN{Trunk: []int{10, 20, 10}}, "VLAN 10 is listed twice"},
		{vnet.VLAN{Trunk: []int{}}, "carries nothing"},
		{vnet.VLAN{Native: 10}, "native VLAN 10 needs a trunk"},
		{vnet.VLAN{Access: 10, Native: 20}, "exclude each other"},
		{vnet.VLAN{Access: 10, Trunk: []int{20}}, "exclude each other"},
		{vnet.VLAN{Access: 10, All: true}, "exclude each other"},
		{vnet.VLAN{All: true, Trunk: []int{20}}, "not both"},
	} {
		err := c.vlan.Check()
		switch {
		case (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%+v: %v, want %q", c.vlan, err, c.want)
		}
		sw := vnet.NewSwitch(vnet.SwitchOptions{})
		if _, plugged := sw.Plug(vnet.PortOptions{VLAN: c.vlan}); (plugged != nil) != (err != nil) {
			t.Errorf("%+v: plug: %v", c.vlan, plugged)
		}
		a, b := vnet.Pipe(vnet.PipeOptions{})
		id, attached := sw.Attach(a, vnet.PortOptions{VLAN: c.vlan})
		if (attached != nil) != (err != nil) {
			t.Errorf("%+v: attach: %v", c.vlan, attached)
		}
		if err == nil {
			if err := sw.SetVLAN(id, c.vlan); err != nil {
				t.Errorf("%+v: %v", c.vlan, err)
			}
		}
		sw.Close()
		b.Close()
	}
}

// vlanPorts are one of each kind.
var vlanPorts = []struct {
	name string
	vnet.VLAN
}{
	{"clear", vnet.VLAN{}},
	{"clear2", vnet.VLAN{}},
	{"access10", vnet.VLAN{Access: 10}},
	{"access10b", vnet.VLAN{Access: 10}},
	{"access20", vnet.VLAN{Access: 20}},
	{"trunk", vnet.VLAN{Trunk: []int{10, 20}}},
	{"native10", vnet.VLAN{Trunk: []int{10, 20}, Native: 10}},
	{"native1", vnet.VLAN{Trunk: []int{10, 20}, Native: 1}},
	{"all", vnet.VLAN{All: true}},
	{"all10", vnet.VLAN{All: true, Native: 10}},
}

func vlanPort(t testing.TB, name string) int {
	for i, p := range vlanPorts {
		if p.name == name {
			return i
		}
	}
	t.Fatalf("no port %s", name)
	return 0
}

// cross sends frames into one of the ports, and gives what comes out of each,
// and what was counted.
func cross(t testing.TB, in int, frames ...vnet.Frame) ([][]vnet.Frame, []vnet.PortStats) {
	t.Helper()
	sw := vnet.NewSwitch(vnet.SwitchOptions{})
	defer sw.Close()
	ends := make([]vnet.Port, len(vlanPorts))
	for i, p := range vlanPorts {
		var err error
		if ends[i], err = sw.Plug(vnet.PortOptions{Name: p.name, VLAN: p.VLAN, Offloads: true}); err != nil {
			t.Fatal(err)
		}
	}
	before := make([][]byte, len(frames))
	for i := range frames {
		before[i] = bytes.Clone(frames[i].Data)
	}
	if n, err := ends[in].WriteFrames(frames); n != len(frames) || err != nil {
		t.Fatal(n, err)
	}
	for i := range frames {
		if !bytes.Equal(frames[i].Data, before[i]) {
			t.Fatal("the sender's frame changed")
		}
	}
	stats := sw.Stats()
	sw.Close() // what was sent can still be read
	out := make([][]vnet.Frame, len(ends))
	for i, end := range ends {
		out[i] = readAll(t, end)
	}
	return out, stats
}

// readAll gives what a closed port still holds.
func readAll(t testing.TB, p vnet.Port) []vnet.Frame {
	t.Helper()
	var all []vnet.Frame
	for {
		bufs := vnet.NewBatch(1, vnet.MaxFrame)
		_, err := p.ReadFrames(bufs)
		if errors.Is(err, net.ErrClosed) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, bufs[0])
	}
}

// tags writes a frame's tags: "-" is none, "10" a VLAN, "10p7" one with
// priority bits (1 is drop eligible), "s10" a service tag, "10/20" one above
// another.
func tags(t testing.TB, text string) []byte {
	t.Helper()
	var b []byte
	if text == "-" {
		return b
	}
	for _, tag := range strings.Split(text, "/") {
		tpid := uint16(0x8100)
		if strings.HasPrefix(tag, "s") {
			tpid, tag = 0x88a8, tag[1:]
		}
		id, bits, _ := strings.Cut(tag, "p")
		vid, err := strconv.Atoi(id)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := strconv.Atoi(bits)
		b = binary.BigEndian.AppendUint16(b, tpid)
		b = binary.BigEndian.AppendUint16(b, uint16(p<<12|vid))
	}
	return b
}

func taggedFrame(t testing.TB, dst, src []byte, text, payload string) []byte {
	f := frame(dst, src, payload)
	return slices.Insert(f, 12, tags(t, text)...)
}

var broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// TestVLANPorts has a row for each port and tag: what comes in, and which ports
// it leaves by, how. A port that is not named gets nothing.
func TestVLANPorts(t *testing.T) {
	for _, c := range []struct{ in, tag, want string }{
		{"clear", "-", "clear2=- all=-"},
		{"clear", "0p10", "clear2=0p10 all=0p10"},
		{"clear", "1p6", "clear2=1p6 native1=- all=1p6 all10=1p6"},
		{"clear", "10p3", "clear2=10p3 access10=- access10b=- trunk=10p3 native10=- native1=10p3 all=10p3 all10=-"},
		{"clear", "20", "clear2=20 access20=- trunk=20 native10=20 native1=20 all=20 all10=20"},
		{"clear", "30", "clear2=30 all=30 all10=30"},
		{"clear", "4094", "clear2=4094 all=4094 all10=4094"},
		{"clear", "4095", "clear2=4095"},
		{"clear", "s10", "clear2=s10 all=s10"},
		{"clear", "10/20", "clear2=10/20 access10=20 access10b=20 trunk=10/20 native1=10/20 all=10/20"},
		{"clear", "10p2/s20", "clear2=10p2/s20 access10=s20 access10b=s20 trunk=10p2/s20 native10=s20 native1=10p2/s20 all=10p2/s20 all10=s20"},
		{"clear", "0/10", "clear2=0/10 all=0/10"},

		{"access10", "-", "clear=10 clear2=10 access10b=- trunk=10 native10=- native1=10 all=10 all10=-"},
		{"access10", "0p13", "clear=10p13 clear2=10p13 access10b=- trunk=10p13 native10=- native1=10p13 all=10p13 all10=-"},
		{"access10", "10", ""},
		{"access10", "20", ""},
		{"access10", "4095", ""},
		{"access10", "s20", "clear=10/s20 clear2=10/s20 access10b=s20 trunk=10/s20 native10=s20 native1=10/s20 all=10/s20 all10=s20"},
		{"access10", "0p1/20", "clear=10p1/20 clear2=10p1/20 access10b=20 trunk=10p1/20 native1=10p1/20 all=10p1/20"},
		{"access20", "-", "clear=20 clear2=20 trunk=20 native10=20 native1=20 all=20 all10=20"},

		{"trunk", "-", ""},
		{"trunk", "0p10", ""},
		{"trunk", "s10", ""},
		{"trunk", "1", ""},
		{"trunk", "30", ""},
		{"trunk", "4095", ""},
		{"trunk", "20p15", "clear=20p15 clear2=20p15 access20=- native10=20p15 native1=20p15 all=20p15 all10=20p15"},
		{"trunk", "20/10", "clear=20/10 clear2=20/10 access20=10 native10=20/10 native1=20/10 all=20/10 all10=20/10"},

		{"native10", "-", "clear=10 clear2=10 access10=- access10b=- trunk=10 native1=10 all=10 all10=-"},
		{"native10", "0p5", "clear=10p5 clear2=10p5 access10=- access10b=- trunk=10p5 native1=10p5 all=10p5 all10=-"},
		{"native10", "10p5", "clear=10p5 clear2=10p5 access10=- access10b=- trunk=10p5 native1=10p5 all=10p5 all10=-"},
		{"native10", "20", "clear=20 clear2=20 access20=- trunk=20 native1=20 all=20 all10=20"},
		{"native10", "30", ""},
		{"native1", "-", "clear=1 clear2=1 all=1 all10=1"},
		{"native1", "1", "clear=1 clear2=1 all=1 all10=1"},

		{"all", "-", "clear=- clear2=-"},
		{"all", "0p2", "clear=0p2 clear2=0p2"},
		{"all", "10", "clear=10 clear2=10 access10=- access10b=- trunk=10 native10=- native1=10 all10=-"},
		{"all", "30", "clear=30 clear2=30 all10=30"},
		{"all", "4095", ""},
		{"all10", "-", "clear=10 clear2=10 access10=- access10b=- trunk=10 native10=- native1=10 all=10"},
		{"all10", "1", "clear=1 clear2=1 native1=- all=1"},
		{"all10", "4095", ""},
	} {
		t.Run(c.in+" "+c.tag, func(t *testing.T) {
			in := vlanPort(t, c.in)
			data := taggedFrame(t, broadcast, mac(1), c.tag, "to all")
			out, stats := cross(t, in, vnet.Frame{Data: data})
			want := make([][]byte, len(vlanPorts))
			for _, w := range strings.Fields(c.want) {
				name, tag, _ := strings.Cut(w, "=")
				want[vlanPort(t, name)] = taggedFrame(t, broadcast, mac(1), tag, "to all")
			}
			for i, p := range vlanPorts {
				var got []byte
				if len(out[i]) > 0 {
					got = out[i][0].Data
				}
				if len(out[i]) > 1 || !bytes.Equal(got, want[i]) {
					t.Errorf("%s got %x, want %x", p.name, got, want[i])
				}
			}
			filtered := uint64(0)
			if c.want == "" {
				filtered = 1
			}
			if st := stats[in]; st.RxFiltered != filtered || st.RxDropped != 0 || st.RxFrames != 1 {
				t.Errorf("counted: %+v", st)
			}
		})
	}
}

// TestVLANHopping: a frame with two tags must not get into the VLAN of the
// second where the first is taken off.
func TestVLANHopping(t *testing.T) {
	_, stats := cross(t, vlanPort(t, "access10"), vnet.Frame{Data: taggedFrame(t, broadcast, mac(1), "0/20", "")})
	for _, st := range stats {
		want := uint64(0)
		if st.Name == "native10" || st.Name == "all10" {
			want = 1
		}
		if st.TxFiltered != want {
			t.Errorf("%+v", st)
		}
	}
}

// TestVLANTransparent: within a VLAN the protocols of bridges pass, too.
func TestVLANTransparent(t *testing.T) {
	for name, dst := range map[string][]byte{
		"STP":     {0x01, 0x80, 0xc2, 0, 0, 0x00},
		"pause":   {0x01, 0x80, 0xc2, 0, 0, 0x01},
		"LACP":    {0x01, 0x80, 0xc2, 0, 0, 0x02},
		"802.1X":  {0x01, 0x80, 0xc2, 0, 0, 0x03},
		"LLDP":    {0x01, 0x80, 0xc2, 0, 0, 0x0e},
		"MVRP":    {0x01, 0x80, 0xc2, 0, 0, 0x21},
		"PVST":    {0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd},
		"unknown": mac(9),
	} {
		f := taggedFrame(t, dst, mac(1), "-", name)
		out, _ := cross(t, vlanPort(t, "access10"), vnet.Frame{Data: f})
		for _, port := range []string{"access10b", "native10", "all10"} {
			if got := out[vlanPort(t, port)]; len(got) != 1 || !bytes.Equal(got[0].Data, f) {
				t.Errorf("%s to %s: %+v", name, port, got)
			}
		}
		for i, port := range vlanPorts {
			if port.Access == 20 && len(out[i]) != 0 {
				t.Errorf("%s came to VLAN 20", name)
			}
		}
	}
}

// vlanLab is a switch with ports that are read at once: a plugged port has what
// was sent to it when the sender's WriteFrames returns.
type vlanLab struct {
	testing.TB
	sw   *vnet.Switch
	ends []vnet.Port
}

func newVLANLab(t testing.TB, ports ...vnet.VLAN) *vlanLab {
	l := &vlanLab{TB: t, sw: vnet.NewSwitch(vnet.SwitchOptions{})}
	t.Cleanup(func() { l.sw.Close() })
	for _, v := range ports {
		p, err := l.sw.Plug(vnet.PortOptions{VLAN: v, Offloads: true})
		if err != nil {
			t.Fatal(err)
		}
		l.ends = append(l.ends, p)
	}
	return l
}

func (l *vlanLab) id(port int) vnet.PortID { return l.sw.Stats()[port].ID }

// expect says how often each port gets a frame from port.
func (l *vlanLab) expect(port int, data []byte, want ...int) {
	l.Helper()
	before := l.sw.Stats()
	if _, err := l.ends[port].WriteFrames([]vnet.Frame{{Data: data}}); err != nil {
		l.Fatal(err)
	}
	var got []int
	for i, st := range l.sw.Stats() {
		if st.TxFrames != before[i].TxFrames {
			got = append(got, i)
		}
	}
	if !slices.Equal(got, want) {
		l.Errorf("%x came to ports %v, want %v", data, got, want)
	}
}

// TestVLANLearning: the same address may be in several places, one in each
// VLAN, and is flooded in a VLAN where it was not seen.
func TestVLANLearning(t *testing.T) {
	l := newVLANLab(t,
		vnet.VLAN{Access: 10}, vnet.VLAN{Access: 10}, vnet.VLAN{Access: 10},
		vnet.VLAN{Access: 20}, vnet.VLAN{Access: 20}, vnet.VLAN{Access: 20},
		vnet.VLAN{Trunk: []int{10, 20, 30}})
	l.expect(0, frame(broadcast, mac(7), "7 is here in VLAN 10"), 1, 2, 6)
	l.expect(3, frame(broadcast, mac(7), "and here in VLAN 20"), 4, 5, 6)
	l.expect(1, frame(mac(7), mac(2), "in 10"), 0)
	l.expect(4, frame(mac(7), mac(2), "in 20"), 3)
	l.expect(6, taggedFrame(t, mac(7), mac(3), "10", "from the trunk"), 0)
	l.expect(6, taggedFrame(t, mac(7), mac(3), "20", "from the trunk"), 3)
	l.expect(6, taggedFrame(t, mac(7), mac(3), "30", "nobody is in 30"))
	l.expect(1, frame(mac(3), mac(2), "3 is behind the trunk"), 6)
	l.expect(0, frame(mac(2), mac(7), "2 is at port 1 here"), 1)
	l.expect(5, frame(mac(2), mac(8), "and at port 4 there"), 4)
	l.expect(2, frame(mac(8), mac(9), "8 was never seen here"), 0, 1, 6)
}

// TestVLANLearningTransparent: transparent ports alone learn by VLAN, too.
func TestVLANLearningTransparent(t *testing.T) {
	l := newVLANLab(t, vnet.VLAN{}, vnet.VLAN{}, vnet.VLAN{})
	l.expect(0, taggedFrame(t, broadcast, mac(7), "10", ""), 1, 2)
	l.expect(1, taggedFrame(t, broadcast, mac(7), "20", ""), 0, 2)
	l.expect(2, taggedFrame(t, mac(7), mac(2), "10p7", ""), 0)
	l.expect(2, taggedFrame(t, mac(7), mac(2), "20", ""), 1)
	l.expect(2, taggedFrame(t, mac(7), mac(2), "-", ""), 0, 1)
	l.expect(0, frame(broadcast, mac(7), ""), 1, 2)
	l.expect(2, taggedFrame(t, mac(7), mac(2), "0p1", ""), 0)
}

// TestVLANFloodedTable: stations in many VLANs count as their port's, and push
// out nobody else's.
func TestVLANFloodedTable(t *testing.T) {
	l := newVLANLab(t, vnet.VLAN{All: true}, vnet.VLAN{Access: 10}, vnet.VLAN{Access: 10})
	l.expect(1, frame(broadcast, mac(2), "here is 2"), 0, 2)
	flood := frame(mac(2), mac(1), "")
	flood = slices.Insert(flood, 12, 0x81, 0, 0, 0)
	for vlan := 1; vlan <= vnet.MaxVLAN; vlan++ {
		for station := range 25 {
			binary.BigEndian.PutUint16(flood[14:], uint16(vlan))
			flood[9] = byte(station)
			if _, err := l.ends[0].WriteFrames([]vnet.Frame{{Data: flood}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := l.sw.Stats()[2]; st.TxFrames+st.TxDropped != 1 {
		t.Errorf("the flood pushed out a station: %+v", st)
	}
	l.expect(2, frame(mac(2), mac(3), "still known"), 1)
}

func TestSetVLAN(t *testing.T) {
	l := newVLANLab(t, vnet.VLAN{}, vnet.VLAN{}, vnet.VLAN{})
	set := func(port int, v vnet.VLAN) {
		t.Helper()
		if err := l.sw.SetVLAN(l.id(port), v); err != nil {
			t.Fatal(err)
		}
	}
	l.expect(0, frame(broadcast, mac(1), ""), 1, 2)
	set(1, vnet.VLAN{Access: 10})
	l.expect(0, frame(broadcast, mac(1), ""), 2)
	l.expect(1, frame(broadcast, mac(2), "2 is in VLAN 10"), 0, 2)
	l.expect(0, taggedFrame(t, mac(2), mac(1), "10", ""), 1)
	set(2, vnet.VLAN{Access: 10})
	l.expect(2, frame(mac(2), mac(3), ""), 1)
	set(1, vnet.VLAN{Access: 20})
	l.expect(2, frame(mac(2), mac(3), "2 is gone from VLAN 10"), 0)
	l.expect(1, frame(mac(3), mac(2), "so is 3 from its"), 0)
	set(1, vnet.VLAN{})
	set(2, vnet.VLAN{})
	l.expect(1, frame(broadcast, mac(2), "as it was"), 0, 2)
	l.expect(0, frame(mac(2), mac(1), ""), 1)

	id := l.id(1)
	if err := l.sw.SetVLAN(id, vnet.VLAN{Access: 5000}); err == nil {
		t.Error("VLAN 5000 was taken")
	}
	l.ends[1].Close()
	if err := l.sw.SetVLAN(id, vnet.VLAN{Access: 10}); !errors.Is(err, vnet.ErrNoPort) {
		t.Errorf("a port that is gone: %v", err)
	}
}

// segments are what a frame is on a wire without offloads.
func segments(t testing.TB, f vnet.Frame) [][]byte {
	t.Helper()
	var seg vnet.Segmenter
	if err := seg.Reset(f); err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for seg.More() {
		all = append(all, seg.Next(nil))
	}
	return all
}

// TestVLANOffload: it is the same whether a long segment is cut before or after
// its tag changes.
func TestVLANOffload(t *testing.T) {
	payload := make([]byte, 5000)
	for _, v6 := range []bool{false, true} {
		plain := bigSegment(v6, payload, 1400)
		copy(plain.Data, broadcast)
		copy(plain.Data[6:], mac(1))
		withTag := func(tag string) vnet.Frame {
			f := plain
			b := tags(t, tag)
			f.Data = slices.Insert(bytes.Clone(f.Data), 12, b...)
			f.Offload.ChecksumStart += uint16(len(b))
			f.Offload.HeaderLen += uint16(len(b))
			return f
		}
		for _, c := range []struct{ in, tag, out, want string }{
			{"access10", "-", "access10b", "-"},
			{"access10", "-", "trunk", "10"},
			{"access10", "0p3", "trunk", "10p3"},
			{"access10", "0p3", "access10b", "-"},
			{"access10", "s5", "trunk", "10/s5"},
			{"trunk", "10p7", "access10", "-"},
			{"trunk", "10/30/s5", "access10", "30/s5"},
			{"trunk", "10", "clear", "10"},
			{"clear", "10", "native10", "-"},
		} {
			out, _ := cross(t, vlanPort(t, c.in), withTag(c.tag))
			got := out[vlanPort(t, c.out)]
			want := withTag(c.want)
			if len(got) != 1 || !bytes.Equal(got[0].Data, want.Data) || got[0].Offload != want.Offload {
				t.Errorf("%+v: got %+v, want %+v", c, got[0].Offload, want.Offload)
				continue
			}
			first := segments(t, plain)
			for i, s := range segments(t, got[0]) {
				if w := slices.Insert(bytes.Clone(first[i]), 12, tags(t, c.want)...); !bytes.Equal(s, w) {
					t.Errorf("%+v: segment %d is %x, want %x", c, i, s[:80], w[:80])
				}
			}
		}
	}
}

// TestVLANOffloadIntoTag: a checksum that is filled in later must not become
// the identifier of a tag.
func TestVLANOffloadIntoTag(t *testing.T) {
	for _, c := range []struct {
		in, tag    string
		start, off uint16
		ok         bool
	}{
		{"access10", "-", 0, 10, false},
		{"access10", "-", 13, 0, false},
		{"access10", "-", 14, 0, true},
		{"access10", "-", 65535, 0, false},
		{"access10", "-", 65531, 0, true},
		{"access10", "0", 14, 0, false},
		{"access10", "0", 18, 0, true},
		{"trunk", "10", 0, 14, false},
		{"trunk", "10", 18, 2, true},
	} {
		f := vnet.Frame{
			Data:    taggedFrame(t, broadcast, mac(1), c.tag, "0123456789012345678901234567890123456789"),
			Offload: vnet.Offload{NeedsChecksum: true, ChecksumStart: c.start, ChecksumOff: c.off},
		}
		in := vlanPort(t, c.in)
		out, stats := cross(t, in, f)
		if got := len(out[vlanPort(t, "native1")]); (got == 1) != c.ok || (stats[in].RxDropped == 0) != c.ok {
			t.Errorf("%+v: %d frames came out; %+v", c, got, stats[in])
		}
	}
}

// TestVLANLongest: the longest packet finds room for its tag; what would not is
// dropped, and so is a tag that is cut short.
func TestVLANLongest(t *testing.T) {
	access, trunk := vlanPort(t, "access10"), vlanPort(t, "trunk")
	longest := vnet.Frame{Data: frame(broadcast, mac(1), string(make([]byte, 65535)))}
	if out, _ := cross(t, access, longest); len(out[trunk]) != 1 || len(out[trunk][0].Data) != vnet.MaxFrame {
		t.Error("the longest packet was lost")
	}
	over := vnet.Frame{Data: frame(broadcast, mac(1), string(make([]byte, 65536)))}
	cut := vnet.Frame{Data: append(append(bytes.Clone(broadcast), mac(1)...), 0x81, 0, 0)}
	for _, f := range []vnet.Frame{over, cut} {
		out, stats := cross(t, access, f)
		if stats[access].RxDropped != 1 {
			t.Errorf("%d bytes: %+v", len(f.Data), stats[access])
		}
		for i := range out {
			if len(out[i]) != 0 {
				t.Errorf("%d bytes came to %s", len(f.Data), vlanPorts[i].name)
			}
		}
	}
	// More at once than the room for changed frames.
	var many []vnet.Frame
	for i := range 300 {
		f := bytes.Clone(longest.Data[:14+1000*(i%7)])
		f = append(f, byte(i), byte(i>>8))
		many = append(many, vnet.Frame{Data: f})
	}
	l := newVLANLab(t, vnet.VLAN{Access: 10}, vnet.VLAN{Trunk: []int{10}})
	for first := 0; first < len(many); first += 150 {
		part := many[first : first+150]
		if _, err := l.ends[0].WriteFrames(part); err != nil {
			t.Fatal(err)
		}
		bufs := vnet.NewBatch(1, vnet.MaxFrame)
		for i, f := range part {
			if _, err := l.ends[1].ReadFrames(bufs); err != nil {
				t.Fatal(err)
			}
			if want := slices.Insert(bytes.Clone(f.Data), 12, 0x81, 0, 0, 10); !bytes.Equal(bufs[0].Data, want) {
				t.Fatalf("frame %d differs", first+i)
			}
		}
	}
}

func TestVLANAllocs(t *testing.T) {
	l := newVLANLab(t, vnet.VLAN{Access: 10}, vnet.VLAN{Access: 10}, vnet.VLAN{Trunk: []int{10}}, vnet.VLAN{})
	batch := make([]vnet.Frame, 32)
	for i := range batch {
		batch[i].Data = frame(broadcast, mac(1), string(make([]byte, 1000)))
	}
	bufs := vnet.NewBatch(32, 2000)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := l.ends[0].WriteFrames(batch); err != nil {
			t.Fatal(err)
		}
		for _, end := range l.ends[1:] {
			for n := 0; n < len(batch); {
				k, err := end.ReadFrames(bufs)
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
		}
	})
	if allocs >= 1 { // the memory for changed frames may be collected, now and then
		t.Errorf("%v allocations for a batch", allocs)
	}
}

// TestVLANChangesUnderTraffic: while ports change their VLANs, a frame of VLAN
// 10 never comes to a port that is on VLAN 20 all the time.
func TestVLANChangesUnderTraffic(t *testing.T) {
	l := newVLANLab(t, vnet.VLAN{Access: 10}, vnet.VLAN{Access: 20}, vnet.VLAN{Access: 10}, vnet.VLAN{Access: 20})
	var readers, writers sync.WaitGroup
	for i, end := range l.ends[:2] {
		writers.Add(1)
		go func() {
			defer writers.Done()
			f := []vnet.Frame{
				{Data: frame(broadcast, mac(byte(i)), fmt.Sprint(i))},
				{Data: frame(mac(byte(1-i)), mac(byte(i)), fmt.Sprint(i))},
			}
			for range 5000 {
				if _, err := end.WriteFrames(f); err != nil {
					t.Error(err)
				}
			}
		}()
		readers.Add(1)
		go func() {
			defer readers.Done()
			bufs := vnet.NewBatch(16, 2000)
			for {
				n, err := end.ReadFrames(bufs)
				if err != nil {
					return
				}
				for _, f := range bufs[:n] {
					if string(f.Data[14:]) == fmt.Sprint(1-i) {
						t.Errorf("port %d got a frame of the other VLAN", i)
						return
					}
				}
			}
		}()
	}
	for i := range 200 {
		for j, v := range []vnet.VLAN{{Access: 10 + i%2*10}, {Trunk: []int{10, 20}, Native: 10 + i%3*10}} {
			if err := l.sw.SetVLAN(vnet.PortID(3+j), v); err != nil {
				t.Error(err)
			}
		}
	}
	writers.Wait()
	l.sw.Close()
	readers.Wait()
}

// BenchmarkVLAN moves 1514-byte frames between two ports.
func BenchmarkVLAN(b *testing.B) {
	for _, c := range []struct {
		name     string
		from, to vnet.VLAN
		tag      string
	}{
		{"transparent", vnet.VLAN{}, vnet.VLAN{}, "-"},
		{"access to access", vnet.VLAN{Access: 10}, vnet.VLAN{Access: 10}, "-"},
		{"access to trunk", vnet.VLAN{Access: 10}, vnet.VLAN{Trunk: []int{10}}, "-"},
		{"trunk to access", vnet.VLAN{Trunk: []int{10}}, vnet.VLAN{Access: 10}, "10"},
	} {
		for _, size := range []int{60, 1514, 60014} {
			b.Run(fmt.Sprintf("%s/%d", c.name, size), func(b *testing.B) {
				l := newVLANLab(b, c.from, c.to)
				batch := make([]vnet.Frame, 8)
				for i := range batch {
					batch[i].Data = taggedFrame(b, broadcast, mac(1), c.tag, string(make([]byte, size-14)))
				}
				bufs := vnet.NewBatch(64, vnet.MaxFrame)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for sent := 0; sent < b.N; sent += len(batch) {
					if _, err := l.ends[0].WriteFrames(batch); err != nil {
						b.Fatal(err)
					}
					for got := 0; got < len(batch); {
						n, err := l.ends[1].ReadFrames(bufs)
						if err != nil {
							b.Fatal(err)
						}
						got += n
					}
				}
			})
		}
	}
}
