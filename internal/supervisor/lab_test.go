package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/gateway"
)

// puppets is a backend whose machines do as the test says.
type puppets struct {
	mu   sync.Mutex
	born map[string][]*puppet // all that were started, by name
	boot func(name string)    // what happens while a machine is being started; nil for nothing
	live func(*puppet)        // what a machine does once it runs; nil waits to be ended
	deaf chan struct{}        // unless it is nil, machines don't heed that they are asked to end, but close it
}

func newPuppets() *puppets { return &puppets{born: map[string][]*puppet{}} }

func (b *puppets) Name() string                                  { return "puppet" }
func (b *puppets) Command(machine.Spec) (machine.Command, error) { return machine.Command{}, nil }
func (b *puppets) Guest(string) machine.Guest                    { return machine.Guest{} }
func (b *puppets) Start(ctx context.Context, spec machine.Spec) (machine.Machine, error) {
	p := &puppet{over: make(chan struct{}), deaf: b.deaf}
	p.out, p.says = io.Pipe()
	if b.boot != nil {
		b.boot(spec.Name)
	}
	for range spec.NICs {
		ours, theirs := vnet.Pipe(vnet.PipeOptions{})
		p.ports, p.cards = append(p.ports, ours), append(p.cards, theirs)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.born[spec.Name] {
		if !isClosed(q.over) {
			panic("two machines are called " + spec.Name)
		}
	}
	b.born[spec.Name] = append(b.born[spec.Name], p)
	p.stop = context.AfterFunc(ctx, p.Kill)
	if b.live != nil {
		go b.live(p)
	}
	return p, nil
}

// last is the newest machine of a name, and how many there were.
func (b *puppets) last(name string) (*puppet, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.born[name]
	return all[len(all)-1], len(all)
}

type puppet struct {
	out          *io.PipeReader
	says         *io.PipeWriter
	ports, cards []vnet.Port
	stop         func() bool
	once         sync.Once
	over, deaf   chan struct{}
	exit         machine.Exit
	dies         machine.Exit // how it ends when it is asked to; the zero value is well
}

func (p *puppet) end(e machine.Exit) {
	p.once.Do(func() {
		p.exit = e
		p.says.Close()
		for _, port := range p.ports {
			port.Close()
		}
		close(p.over)
		p.stop()
	})
}

func (p *puppet) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *puppet) Write(b []byte) (int, error) { return len(b), nil }
func (p *puppet) Resize(int, int) error       { return nil }
func (p *puppet) Console() machine.Console    { return p }
func (p *puppet) Status() io.Reader           { return strings.NewReader("") }
func (p *puppet) Ports() []vnet.Port          { return p.ports }
func (p *puppet) Kill()                       { p.end(machine.Exit{Host: "signal: killed"}) }
func (p *puppet) Wait() machine.Exit {
	<-p.over
	return p.exit
}
func (p *puppet) Stop(ctx context.Context) error {
	if p.deaf != nil {
		close(p.deaf)
		select {
		case <-ctx.Done():
			p.Kill()
		case <-p.over:
		}
	}
	p.dies.Clean = p.dies.Cause == ""
	p.end(p.dies)
	return nil
}

// play opens a lab whose machines are puppets.
func play(t *testing.T, b *puppets) *Lab {
	t.Helper()
	dir := t.TempDir()
	l := Open(LabConfig{Dir: dir, Prepare: func(_ context.Context, spec *lab.Spec, m *lab.Machine) (Config, func(), error) {
		scratch, err := os.MkdirTemp(dir, "scratch")
		// Firmware: nothing of ours is in them, and they are ready at once.
		return Config{Lab: spec, Machine: m, Backend: b, Firmware: machine.FirmwareBIOS, Dir: scratch}, func() { os.RemoveAll(scratch) }, err
	}})
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func parse(t *testing.T, text string) *lab.Spec {
	t.Helper()
	spec, err := lab.Parse("wolffia.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func apply(t *testing.T, l *Lab, text string) {
	t.Helper()
	if err := l.Apply(context.Background(), parse(t, text)); err != nil {
		t.Fatal(err)
	}
}

func states(l *Lab) string {
	var out []string
	for _, m := range l.Status() {
		out = append(out, m.Name+" "+string(m.State))
	}
	return strings.Join(out, ", ")
}

const two = "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: [lan]}, bert: {networks: [lan]}}\n"

// TestApplyRevives: applying the same file again left alone what had stopped or
// failed, and said that it had.
func TestApplyRevives(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	text := strings.Replace(two, "machines: {", "machines: {carl: {networks: []}, dora: {networks: [], restart: on-failure}, ", 1)
	apply(t, l, text)
	if err := l.Stop(context.Background(), "bert"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"carl", "dora"} {
		p, _ := b.last(name)
		p.Kill()
		if _, err := l.Wait(context.Background(), name, StateReady); err != nil {
			t.Fatal(err)
		}
	}
	if got := states(l); got != "anna ready, bert stopped, carl failed, dora failed" {
		t.Fatal(got)
	}
	apply(t, l, text)
	if got := states(l); got != "anna ready, bert ready, carl ready, dora ready" {
		t.Error(got)
	}
	for name, want := range map[string]int{"anna": 1, "bert": 2, "carl": 2, "dora": 2} {
		if _, n := b.last(name); n != want {
			t.Errorf("%s was started %d times, want %d", name, n, want)
		}
	}
}

// TestApplyAddresses: a machine put before another one took its addresses while it
// ran, and so had both of them.
func TestApplyAddresses(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	head, tail := "networks: {lan: {}, quiet: {subnet: 10.9.0.0/24, routes: [{to: 10.8.0.0/24, via: bert}]}}\nmachines: {anna: {networks: [lan]}, ", "bert: {networks: [lan, quiet]}, carl: {networks: [{network: quiet, address: 10.9.0.77}]}, dora: {networks: [{network: lan, address: 10.0.2.99}]}}\n"
	apply(t, l, head+tail)
	text := head + "eric: {networks: [lan]}, " + tail
	var plan []string
	for _, s := range Diff(parse(t, head+tail), parse(t, text)) {
		plan = append(plan, s.String())
	}
	if got := strings.Join(plan, "; "); got != "start machine eric; restart machine bert: addresses" {
		t.Errorf("planned is %s", got)
	}
	apply(t, l, text)
	for name, want := range map[string]int{"anna": 1, "bert": 2, "carl": 1, "dora": 1, "eric": 1} {
		if _, n := b.last(name); n != want {
			t.Errorf("%s was started %d times, want %d", name, n, want)
		}
	}
	// Those who were told another's address start again with it.
	again := strings.Replace(text, "bert: {networks: [lan, quiet]}", "bert: {networks: [lan, {network: quiet, address: 10.9.0.50}]}", 1)
	apply(t, l, again)
	if _, n := b.last("carl"); n != 2 {
		t.Errorf("carl, whose route is by way of bert, was started %d times", n)
	}
	if steps := Diff(l.Spec(), parse(t, again)); len(steps) > 0 {
		t.Errorf("still to do: %v", steps)
	}
}

// TestApplyPrefixes: with a second network the first has another IPv6 prefix, which
// its gateway and its machines did not hear of.
func TestApplyPrefixes(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, "networks: {lan: {}}\nmachines: {anna: {networks: [lan]}}\n")
	apply(t, l, "networks: {lan: {}, quiet: {subnet: 10.9.0.0/24}}\nmachines: {anna: {networks: [lan]}}\n")
	if _, n := b.last("anna"); n != 2 {
		t.Errorf("anna was started %d times", n)
	}
}

// TestApplyReservations: what is reserved for a card from outside is no machine's,
// and changes while the gateway goes on.
func TestApplyReservations(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	const text = "networks: {lan: {dhcp: {first: 10.0.2.40, reservations: [{mac: '02:00:00:00:00:05', address: 10.0.2.15, name: pc}]}}}\nmachines: {anna: {networks: [lan]}, bert: {networks: [lan]}}\n"
	gateway := func() *gateway.Gateway { return l.network("lan").gateways[0] }
	leases := func() string {
		var out []string
		for _, lease := range gateway().Leases() {
			out = append(out, lease.Name+" "+lease.Addr.String())
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	apply(t, l, text)
	if got := leases(); got != "anna 10.0.2.16, bert 10.0.2.17, pc 10.0.2.15" {
		t.Errorf("the addresses are %s", got)
	}
	before := gateway()
	apply(t, l, strings.Replace(text, "10.0.2.15, name: pc", "10.0.2.77, name: tower", 1))
	if got := leases(); got != "anna 10.0.2.15, bert 10.0.2.16, tower 10.0.2.77" {
		t.Errorf("the addresses are %s", got)
	}
	if gateway() != before {
		t.Error("there is another gateway, and what went through the first is cut off")
	}
}

// TestAllAtOnce does to a lab all that can be done to it, at the same time: two
// restarts of one machine used to give it two lives, and a machine that started
// while a file was applied could end the supervisor.
func TestAllAtOnce(t *testing.T) {
	b := newPuppets() // whose Start panics when a machine is there twice
	l := play(t, b)
	apply(t, l, two)
	ctx, cancel := context.WithCancel(context.Background())
	var doing sync.WaitGroup
	for _, do := range []func(int){
		func(int) { l.Restart(ctx, "anna") },
		func(int) { l.Restart(ctx, "anna", "bert") },
		func(int) { l.Stop(ctx, "bert") },
		func(int) { l.Kill("anna") },
		func(i int) {
			p, _ := b.last("anna")
			p.end(machine.Exit{Clean: true, Reboot: i%2 == 0})
		},
		func(i int) {
			l.Apply(ctx, parse(t, fmt.Sprintf("networks: {lan: {gateway: none, ring: %dM}, n%d: {gateway: none, subnet: 10.9.0.0/24}}\nmachines: {anna: {networks: [lan]}, bert: {networks: [lan, n%[2]d]}, m%d: {networks: [lan]}}\n", 1+i%2, i%3, i%2)))
		},
		func(i int) {
			if x, err := l.Link("anna/lan"); err == nil {
				x.SetUp(i%2 == 0)
			}
		},
		func(int) { l.Status(); l.Links(); l.Spec() },
		func(int) {
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			l.Capture(short, io.Discard, CaptureOptions{Network: "lan"})
			l.Last(io.Discard, CaptureOptions{Machine: "anna"})
		},
		func(int) {
			if v, err := l.View("bert", true); err == nil {
				v.Close()
			}
		},
	} {
		doing.Go(func() {
			for n := range 60 {
				do(n)
			}
		})
	}
	doing.Wait()
	cancel()
	l.Close(context.Background())
	for name, all := range b.born {
		for _, p := range all {
			if !isClosed(p.over) {
				t.Errorf("%s still runs", name)
			}
		}
	}
	if err := l.Restart(context.Background()); err != nil {
		t.Error(err) // of no machine
	}
	if left, _ := filepath.Glob(filepath.Join(l.cfg.Dir, "scratch*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestCloseInterrupts: a lab that went down waited for downloads of the apply
// that was on.
func TestCloseInterrupts(t *testing.T) {
	preparing := make(chan struct{})
	l := Open(LabConfig{Dir: t.TempDir(), Prepare: func(ctx context.Context, _ *lab.Spec, _ *lab.Machine) (Config, func(), error) {
		close(preparing)
		<-ctx.Done()
		return Config{}, nil, context.Cause(ctx)
	}})
	applied, second := make(chan error), make(chan error)
	go func() { applied <- l.Apply(context.Background(), parse(t, two)) }()
	<-preparing
	ctx, cancel := context.WithCancel(context.Background())
	go func() { second <- l.Apply(ctx, parse(t, two)) }()
	cancel() // who waits for the other can go
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	l.Close(context.Background())
	if err := <-applied; !errors.As(err, new(ClosedError)) {
		t.Error(err)
	}
	if err := l.Apply(context.Background(), parse(t, two)); !errors.As(err, new(ClosedError)) {
		t.Error(err)
	}
}

// TestKillDuringStop: a machine that takes its time to shut down could not be
// killed before that was over.
func TestKillDuringStop(t *testing.T) {
	b := newPuppets()
	b.deaf = make(chan struct{})
	l := play(t, b)
	apply(t, l, "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: []}}\n")
	slow, _ := b.last("anna")
	stopped := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { stopped <- l.Stop(ctx, "anna") }()
	<-b.deaf
	cancel() // ends the wait, and not the machine
	if err := <-stopped; !errors.Is(err, context.Canceled) || isClosed(slow.over) {
		t.Errorf("%v; ended %v", err, isClosed(slow.over))
	}
	l.Kill("anna")
	if !isClosed(slow.over) || states(l) != "anna stopped" {
		t.Error(states(l))
	}
}

// TestFailsDuringStop: of a machine that failed while it shut down, so that what
// it wrote last was lost, nothing was told.
func TestFailsDuringStop(t *testing.T) {
	var told []string
	b := newPuppets()
	l := play(t, b)
	l.events = event.Func(func(e event.Event) {
		if e.Kind == event.Warn {
			told = append(told, e.Subject+": "+e.Message)
		}
	})
	apply(t, l, "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: []}, bert: {networks: []}}\n")
	anna, _ := b.last("anna")
	anna.dies = machine.Exit{Stage: "disks", Cause: "the host's disk is full", Fix: "make room there"}
	if err := l.Stop(context.Background(), "anna", "bert"); err != nil || states(l) != "anna stopped, bert stopped" {
		t.Error(err, states(l))
	}
	if want := []string{"anna: it failed while it shut down: the host's disk is full; make room there"}; !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}

// TestRebootLoop: a machine that restarts again and again began each life at
// once, and kept the host busy.
func TestRebootLoop(t *testing.T) {
	for text, end := range map[string]machine.Exit{
		"{networks: []}":                      {Clean: true, Reboot: true},
		"{networks: [], restart: always}":     {Clean: true},
		"{networks: [], restart: on-failure}": {},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newPuppets()
			b.live = func(p *puppet) { p.end(end) }
			l := play(t, b)
			l.Apply(context.Background(), parse(t, "networks: {lan: {gateway: none}}\nmachines: {anna: "+text+"}\n"))
			time.Sleep(time.Hour)
			synctest.Wait()
			if _, n := b.last("anna"); n < 60 || n > 75 { // 1, 2, 4, ... 60 s apart
				t.Errorf("%s: %d lives in an hour", text, n)
			}
			if got := states(l); end.Clean && got != "anna waiting" {
				t.Error(got) // it used to be called ready
			}
			l.Close(context.Background())
		})
	}
}

// TestPowerOff: a machine that powers off by itself stays down, also where it would be
// started again had it failed.
func TestPowerOff(t *testing.T) {
	for _, text := range []string{"{networks: []}", "{networks: [], restart: on-failure}"} {
		synctest.Test(t, func(t *testing.T) {
			b := newPuppets()
			b.live = func(p *puppet) { p.end(machine.Exit{Clean: true}) }
			l := play(t, b)
			l.Apply(context.Background(), parse(t, "networks: {lan: {gateway: none}}\nmachines: {anna: "+text+"}\n"))
			time.Sleep(time.Hour)
			synctest.Wait()
			if _, n := b.last("anna"); n != 1 {
				t.Errorf("%s: %d lives", text, n)
			}
			if got := states(l); got != "anna stopped" {
				t.Errorf("%s: %s", text, got)
			}
			l.Close(context.Background())
		})
	}
}

// TestNetworksThatFail: after a file whose networks could not be made, going back
// to the one before, or leaving out a network, failed or did nothing.
func TestNetworksThatFail(t *testing.T) {
	l := play(t, newPuppets())
	more := strings.Replace(two, "{lan:", "{far: {gateway: none}, lan:", 1)
	bad := strings.Replace(two, "{gateway: none}", "{gateway: none, plugs: [{vde: ./nothing}]}", 1)
	apply(t, l, more)
	if err := l.Apply(context.Background(), parse(t, bad)); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Fatal(err)
	}
	apply(t, l, more)
	if got := l.Spec().NetworkNames(); len(got) != 2 || l.network("far") == nil {
		t.Error(got)
	}
	if len(l.spoilt) != 0 {
		t.Errorf("still to be changed: %v", l.spoilt)
	}
	// The same with a network that has to begin anew.
	again := strings.Replace(bad, "gateway: none,", "gateway: none, mtu: 9000,", 1)
	if err := l.Apply(context.Background(), parse(t, again)); err == nil {
		t.Fatal("no error")
	}
	apply(t, l, two)
	if got := states(l); got != "anna ready, bert ready" {
		t.Error(got)
	}
}

// TestForwardTaken: that a port of the host is in use did not say which machine
// wanted it.
func TestForwardTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	open := strings.ReplaceAll(two, "gateway: none", "subnet: 10.9.0.0/24")
	text := strings.Replace(open, "bert: {", fmt.Sprintf("bert: {forwards: [\"%s:80\"], ", taken.Addr()), 1)
	want := fmt.Sprintf("forward tcp %v -> bert (10.9.0.", taken.Addr())
	first, changed := play(t, newPuppets()), play(t, newPuppets())
	apply(t, changed, open)
	for _, l := range []*Lab{first, changed} {
		if err := l.Apply(context.Background(), parse(t, text)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "in use; choose another port") {
			t.Error(err)
		}
	}
}

// TestCablesAndRings: cables of machines that had ended stayed, captures went on
// looking at machines that came after them, and the size of a ring never changed.
func TestCablesAndRings(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, two)
	n := l.network("lan")
	ctx, cancel := context.WithCancel(context.Background())
	var capturing sync.WaitGroup
	capturing.Go(func() { l.Capture(ctx, io.Discard, CaptureOptions{Network: "lan"}) })
	for {
		n.mu.Lock()
		looking := len(n.onlookers)
		n.mu.Unlock()
		if looking == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := l.Restart(context.Background(), "anna"); err != nil {
		t.Fatal(err)
	}
	l.Stop(context.Background(), "bert")
	n.mu.Lock()
	for w := range n.onlookers {
		if len(w.ends) != 1 || len(n.cables) != 1 {
			t.Errorf("%d links are looked at, of %d", len(w.ends), len(n.cables))
		}
	}
	n.mu.Unlock()
	cancel()
	capturing.Wait()
	apply(t, l, strings.Replace(two, "gateway: none", "gateway: none, ring: 0", 1))
	if err := l.CheckCapture(CaptureOptions{Network: "lan", Last: time.Minute}); err == nil {
		t.Error("what was to be kept no longer is")
	}
	apply(t, l, two)
	send := func(name string) {
		p, _ := b.last(name)
		p.cards[0].WriteFrames([]vnet.Frame{{Data: []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x00" + strings.Repeat("x", 50))}})
	}
	for deadline := time.Now().Add(10 * time.Second); n.kept().Stats().Frames == 0; time.Sleep(time.Millisecond) {
		send("anna")
		if time.Now().After(deadline) {
			t.Fatal("the new ring sees nothing")
		}
	}
}

// TestConsoleStays: who looks at a console goes on when the machine's description
// changes, and it ends with the lab.
func TestConsoleStays(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, two)
	v, err := l.View("bert", true)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, l, strings.Replace(two, "bert: {", "bert: {memory: 64M, ", 1))
	p, n := b.last("bert")
	if n != 2 {
		t.Fatalf("%d lives", n)
	}
	io.WriteString(p.says, "its second life")
	buf := make([]byte, 100)
	if n, err := v.Read(buf); string(buf[:n]) != "its second life" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	go l.Close(context.Background())
	if _, err := v.Read(buf); err != io.EOF {
		t.Error(err)
	}
}

// TestConsoleFlood: what a machine says waits for nobody, and what is kept of it
// is bounded.
func TestConsoleFlood(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	apply(t, l, two)
	idle, err := l.View("anna", true)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := b.last("anna")
	line := strings.Repeat("x", 64<<10)
	const lines = 3 * logLen / (64 << 10)
	for range lines {
		io.WriteString(p.says, line) // would block for ever if nobody read
	}
	l.Stop(context.Background(), "anna")
	var size int64
	files, _ := filepath.Glob(filepath.Join(l.cfg.Dir, "anna.log*"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			size += info.Size()
		}
	}
	if len(files) != 2 || size > 2*logLen+int64(len(line)) {
		t.Errorf("%d bytes in %v", size, files)
	}
	idle.Close()
	shown, _ := io.ReadAll(idle)
	if len(shown) > viewerLen+100 || !strings.Contains(string(shown), "output was lost") {
		t.Errorf("%d bytes were held", len(shown))
	}
}

// TestWaitsAreTold: who waits for a lab hears what for.
func TestWaitsAreTold(t *testing.T) {
	var mu sync.Mutex
	var told []string
	b := newPuppets()
	l := play(t, b)
	l.events = event.Func(func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, string(e.Kind)+" "+e.Task+" "+e.Subject)
	})
	apply(t, l, "networks: {lan: {gateway: none}}\nmachines: {anna: {networks: []}, bert: {networks: [], after: [anna]}}\n")
	l.Stop(context.Background(), "bert")
	mu.Lock()
	defer mu.Unlock()
	all := strings.Join(told, "\n")
	for _, want := range []string{"begin wait for anna, before bert", "done wait for anna, before bert", "begin stop bert", "done stop bert"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in\n%s", want, all)
		}
	}
}
