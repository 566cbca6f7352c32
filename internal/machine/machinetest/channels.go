package machinetest

import (
	"bufio"
	"io"
	"strconv"
	"testing"

	"wolffia/internal/machine"
)

// Channels tests a backend whose machines are a [machine.Channeler], with a kernel
// that has the driver built in: streams both ways, their ends, and what the guest
// wrote last.
func Channels(t *testing.T, b machine.Backend, f Fixtures) {
	s := suite{b, f}
	spec := s.spec(t, `port() { # NAME
	while :; do
		for d in /sys/class/virtio-ports/*; do
			[ -r "$d/name" ] && read -r name <"$d/name" && [ "$name" = "$1" ] && port=/dev/${d##*/} && return
		done
	done
}
port echo; exec 4<>$port
port in; in=$port
port out; out=$port
read -r line <&4; echo "<$line>" >&4
{ wc -c <$in; seq 1000000; } >$out
echo last >&4
poweroff -f`)
	spec.Channels = []string{"echo", "in", "out"}
	m := s.start(t, spec)
	channels := m.(machine.Channeler).Channels()
	for _, c := range channels {
		defer c.Close()
	}
	echo, in, out := channels[0], channels[1], channels[2]
	if _, err := io.WriteString(echo, "both ways\n"); err != nil {
		t.Fatal(err)
	}
	until(t, echo, "<both ways>\n")
	const size = 3 << 20
	if _, err := in.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := in.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for i := range 1_000_001 {
		if i == 0 {
			i = size
		}
		if line, err := lines.ReadString('\n'); line != strconv.Itoa(i)+"\n" {
			t.Fatalf("%q, %v; want %d", line, err, i)
		}
	}
	clean(t, m) // what it wrote last is still there
	if got, err := io.ReadAll(echo); string(got) != "last\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
