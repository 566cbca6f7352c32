package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/machine"
	"wolffia/internal/vnet"
)

// TestFramesOfTheUnready: of a machine that did not become ready, a file without
// frames was named where nothing had passed on its cards, or nothing was kept.
func TestFramesOfTheUnready(t *testing.T) {
	b := newPuppets()
	l := play(t, b)
	text := `networks: {lan: {gateway: none}, quiet: {gateway: none}, bare: {gateway: none, ring: 0}}
machines: {anna: {networks: [lan]}, bert: {networks: [quiet]}, carl: {networks: [bare]}, dora: {networks: []}}
`
	apply(t, l, text)
	for deadline := time.Now().Add(10 * time.Second); l.network("lan").kept().Stats().Frames == 0; time.Sleep(time.Millisecond) {
		for _, name := range []string{"anna", "carl"} {
			p, _ := b.last(name)
			p.cards[0].WriteFrames([]vnet.Frame{{Data: []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x00" + strings.Repeat("x", 50))}})
		}
		if time.Now().After(deadline) {
			t.Fatal("the ring sees nothing")
		}
	}
	// None has an ssh server that could say that the command went well.
	apply(t, l, strings.ReplaceAll(text, "]}", `], ready: {command: "true"}}`))
	if err := l.Restart(context.Background()); err == nil {
		t.Fatal("they are ready")
	}
	for _, name := range []string{"anna", "bert", "carl", "dora"} {
		m, err := l.member(name)
		if err != nil {
			t.Fatal(err)
		}
		var start *machine.StartError
		if !errors.As(m.trouble(), &start) {
			t.Fatalf("%s: %v", name, m.trouble())
		}
		path := filepath.Join(l.cfg.Dir, name+".pcapng")
		_, err = os.Stat(path)
		if want := name == "anna"; (err == nil) != want || strings.HasSuffix(start.Fix, "; what passed on its cards is in "+path) != want || strings.Contains(start.Fix, "pcapng") != want {
			t.Errorf("%s: %q, %v", name, start.Fix, err)
		}
	}
}
