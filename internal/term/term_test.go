package term

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

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

// TestPauseHoldsBack: a warning used to land in the middle of the output of
// the command that runs in the machine.
func TestPauseHoldsBack(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, Quiet)
	r.Pause()
	want := ""
	for i := range maxHeld + 2 {
		r.Emit(event.Event{Kind: event.Warn, Message: fmt.Sprint("odd ", i)})
		r.Emit(event.Event{Kind: event.Warn, Message: fmt.Sprint("odd ", i)}) // said once
		if i < maxHeld {
			want += fmt.Sprintf("wolffia: warning: odd %d\n", i)
		}
	}
	if out.Len() != 0 {
		t.Errorf("written while paused: %q", out.String())
	}
	r.Close()
	want += "wolffia: warning: 2 further warnings are not shown\n"
	if out.String() != want {
		t.Errorf("after the pause: %q", out.String())
	}
}

// TestForeignTextIsHarmless: what a guest or an archive says must not drive
// the person's terminal.
func TestForeignTextIsHarmless(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, Quiet)
	r.Emit(event.Event{Kind: event.Warn, Message: "a\x1b]0;title\x07b\u009b2Jc\xffd\u202ee\r"})
	r.Close()
	want := "wolffia: warning: a\ufffd]0;title\ufffdb\ufffd2Jc\ufffdd\ufffde\ufffd\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// TestBarsKeepLettersWhole: a long name used to be cut within a letter, and a
// total of many bytes to overflow.
func TestBarsKeepLettersWhole(t *testing.T) {
	e := event.Event{Task: "download", Subject: strings.Repeat("ä", 60), Current: 1 << 60, Total: 1 << 60, Unit: event.Bytes}
	got := bar(e)
	if !utf8.ValidString(got) || !strings.Contains(got, strings.Repeat("━", 24)) {
		t.Errorf("%q", got)
	}
	if n := utf8.RuneCountInString(cut(got, 20)); n != 20 {
		t.Errorf("cut to %d letters, not 20", n)
	}
}
