package machine

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func TestTranscript(t *testing.T) {
	var log bytes.Buffer
	tr := Transcript{Log: &log}
	tr.Write([]byte("one\r\ntwo"))
	b := make([]byte, 4)
	if n, err := tr.Read(b); n != 4 || err != nil || string(b) != "one\r" {
		t.Errorf("%q %v", b[:n], err)
	}
	tr.Write([]byte("\r\nthree\x1b[0m\r\n\r\n"))
	tr.Close()
	if rest, err := io.ReadAll(&tr); string(rest) != "\ntwo\r\nthree\x1b[0m\r\n\r\n" || err != nil {
		t.Errorf("%q %v", rest, err)
	}
	if tail := strings.Join(tr.Tail(2), "|"); tail != "two|three[0m" {
		t.Errorf("tail %q", tail)
	}
	if log.String() != "one\r\ntwo\r\nthree\x1b[0m\r\n\r\n" {
		t.Errorf("log %q", log.String())
	}
}

// What nobody reads is bounded, and what is left is the newest.
func TestTranscriptBound(t *testing.T) {
	var tr Transcript
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range 5000 {
		tr.Write(line)
	}
	tr.Write([]byte("last\n"))
	tr.Close()
	b, _ := io.ReadAll(&tr)
	if len(b) != transcriptKeep || !bytes.HasSuffix(b, []byte("x\nlast\n")) {
		t.Errorf("%d bytes, want %d", len(b), transcriptKeep)
	}
	if cap(tr.buf) > 4*transcriptKeep {
		t.Errorf("%d bytes of memory", cap(tr.buf))
	}
	if tail := tr.Tail(1); len(tail) != 1 || tail[0] != "last" {
		t.Errorf("tail %q", tail)
	}
}

func TestTranscriptReadWaits(t *testing.T) {
	var tr Transcript
	var wg sync.WaitGroup
	var got []byte
	wg.Go(func() { got, _ = io.ReadAll(&tr) })
	for range 1000 {
		tr.Write([]byte("abc"))
	}
	tr.Close()
	wg.Wait()
	if string(got) != strings.Repeat("abc", 1000) {
		t.Errorf("%d bytes", len(got))
	}
}

// A log that can't be written does not stop the console.
func TestTranscriptFullDisk(t *testing.T) {
	tr := Transcript{Log: failing{}}
	if n, err := tr.Write([]byte("abc")); n != 3 || err != nil {
		t.Error(n, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestDiagnose(t *testing.T) {
	for _, c := range []struct{ console, stage, cause string }{
		{"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "init", "init ended, which it never may; exit code 0x00000100"},
		{"x\nInitramfs unpacking failed: write error\nKernel panic - not syncing: No working init found", "kernel", "the initramfs does not fit into the machine's memory"},
		{"[    0.1] Initramfs unpacking failed: ZSTD-compressed data is corrupt", "kernel", "the initramfs is damaged: ZSTD-compressed data is corrupt"},
		{"Kernel panic - not syncing: something new", "kernel", "the kernel panicked: something new"},
		{"Kernel panic - not syncing: ", "kernel", "the kernel panicked"},
	} {
		s, ok := Diagnose(Lines(c.console, 10), nil, KernelSymptoms())
		if !ok || s.Stage != c.stage || s.Cause != c.cause {
			t.Errorf("%q: %+v", c.console, s)
		}
	}
	if s, ok := Diagnose([]string{"all is well"}, KernelSymptoms()); ok {
		t.Errorf("%+v", s)
	}
	own := []Symptom{{Text: "ugly noise", Stage: "start", Cause: "own"}}
	if s, _ := Diagnose([]string{"Kernel panic - not syncing: x", "ugly noise"}, own, KernelSymptoms()); s.Cause != "own" {
		t.Errorf("%+v", s)
	}
}

// The table is in order: no entry is hidden by an earlier, more general one.
func TestSymptomsReachable(t *testing.T) {
	table := KernelSymptoms()
	for i, s := range table {
		got, ok := Diagnose([]string{"[    1.0] " + s.Text + "x"}, table)
		if !ok || got.Text != s.Text {
			t.Errorf("symptom %d %q is answered by %q", i, s.Text, got.Text)
		}
		if s.Stage == "" || s.Cause == "" {
			t.Errorf("symptom %q lacks something", s.Text)
		}
	}
}

func TestExitErr(t *testing.T) {
	base := errors.New("base")
	e := Exit{Stage: "kernel", Cause: "it panicked", Fix: "f", Host: "signal: aborted", Tail: []string{"a"}, Log: "/l"}.Err("alice", "network")
	if e.Stage != "kernel" || e.Machine != "alice" || e.Exit != "signal: aborted" || e.Log != "/l" {
		t.Errorf("%+v", e)
	}
	e.Err = base
	if !errors.Is(e, base) || e.Error() != "machine alice did not come up: stage kernel: it panicked: base" {
		t.Error(e)
	}
	// One that had been up for hours was said not to have come up.
	if e := (Exit{Stage: "kernel", Cause: "it panicked"}).Err("alice", StageRunning); e.Error() != "machine alice died: stage kernel: it panicked" {
		t.Error(e)
	}
	if e := (Exit{Clean: true}).Err("bob", "network"); e.Stage != "network" || !strings.Contains(e.Cause, "powered off") {
		t.Errorf("%+v", e)
	}
	if e := (Exit{Clean: true, Reboot: true}).Err("bob", "network"); !strings.Contains(e.Cause, "restarted") {
		t.Errorf("%+v", e)
	}
}

// Whatever a guest prints, a report of it is short and harmless.
func FuzzLines(f *testing.F) {
	f.Add("a\nb\r\n\x1b[31mred\x00\n", 2)
	f.Add(strings.Repeat("é", 1000), 1)
	f.Add("\u009b31m\u2028x\xff\xfe", 3)
	f.Fuzz(func(t *testing.T, text string, n int) {
		n = max(0, min(n, 100))
		lines := Lines(text, n)
		if len(lines) > n {
			t.Errorf("%d lines", len(lines))
		}
		for _, l := range lines {
			if len(l) > tailLine+3 || strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) || !utf8.ValidString(l) {
				t.Errorf("line %q", l)
			}
		}
		Diagnose(lines, KernelSymptoms())
	})
}

// TestLinesLeaveStackDumpsOut keeps a panic's own words in a report.
func TestLinesLeaveStackDumpsOut(t *testing.T) {
	const panicked = `[    0.1] Kernel panic - not syncing: No working init found.
Stack:
 61077d40 60983b0b 607b940e 60bfb2e0
Call Trace:
 [<6003209e>] ? _printk+0x0/0x45
[    9.218563]  mount_block_root+0x14e/0x1e6
 [    9.2] ? nf_hook+0x1/0x2 [nf_tables]
[    9.219645]  </TASK>
deadbeef
Kernel Offset: 0x37c00000 from 0xffffffff81000000`
	got := strings.Join(Lines(panicked, 10), "|")
	want := "[    0.1] Kernel panic - not syncing: No working init found.|deadbeef|Kernel Offset: 0x37c00000 from 0xffffffff81000000"
	if got != want {
		t.Errorf("got %q", got)
	}
}

// TestStatusReaderCloses: what a machine's status lines came over stayed open when
// it had ended, for each life of it.
func TestStatusReaderCloses(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "stage init\r\nready\r\n")
	w.Close()
	status := StatusReader(r)
	if data, err := io.ReadAll(status); string(data) != "stage init\nready\n" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if err := r.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("it was still open: %v", err)
	}
	if n, err := status.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
}
