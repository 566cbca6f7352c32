package term

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wolffia/internal/event"
)

func TestLinesSayOnlyWhatTakesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Lines)
		r.Emit(event.Event{Kind: event.Begin, Task: "unpack", Subject: "quick"})
		r.Emit(event.Event{Kind: event.Done, Task: "unpack", Subject: "quick"})
		r.Emit(event.Event{Kind: event.Begin, Task: "download", Subject: "linux", Total: 3 << 20, Unit: event.Bytes})
		time.Sleep(time.Second)
		r.Emit(event.Event{Kind: event.Warn, Message: "the index is old"})
		r.Close()
		want := "wolffia: download linux (3.0 MiB)\nwolffia: warning: the index is old\n"
		if out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	})
}

func TestBarsLeaveTheTerminalClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Bars)
		r.Emit(event.Event{Kind: event.Begin, Task: "download", Subject: "linux", Total: 100, Unit: event.Bytes})
		r.Emit(event.Event{Kind: event.Step, Task: "download", Subject: "linux", Current: 50, Unit: event.Bytes})
		time.Sleep(time.Second)
		r.Close()
		got := out.String()
		if !strings.Contains(got, "50 B/100 B") {
			t.Errorf("no bar in %q", got)
		}
		if !strings.HasSuffix(got, "\x1b[1A\x1b[J") {
			t.Errorf("the last bar was not wiped: %q", got)
		}
	})
}

func TestJSONGivesEveryEvent(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, JSON)
	r.Emit(event.Event{Kind: event.Begin, Task: "boot"})
	r.Emit(event.Event{Kind: event.Done, Task: "boot"})
	r.Close()
	if want := "{\"kind\":\"begin\",\"task\":\"boot\"}\n{\"kind\":\"done\",\"task\":\"boot\"}\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
