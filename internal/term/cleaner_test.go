package term

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestCleaner: what a guest wrote to its console drove the terminal that showed
// its log.
func TestCleaner(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n":                                "plain\n",
		"a\r\nb\r\n":                             "a\nb\n",
		"over\rwritten":                          "over\nwritten",
		"\x1b[1;31mred\x1b[0m \x1b[2Jgone":       "red gone",
		"\x1b]0;title\x07x\x1b]52;c;AAAA\x1b\\y": "xy",
		"\x1bcreset \x1b(Bset":                   "reset set",
		"\x1b]never ends\nrest":                  "\nrest",
		"bell\x07 \u009b31m \u202e bytes \xff":   "bell\ufffd \ufffd31m \ufffd bytes \ufffd",
		"grüße ☃":                                "grüße ☃",
		"\x1b[\x1b[2Jx":                          "x",
	} {
		for _, reader := range []io.Reader{strings.NewReader(in), iotest.OneByteReader(strings.NewReader(in))} {
			var out strings.Builder
			if _, err := io.Copy(NewCleaner(&out), reader); err != nil || out.String() != want {
				t.Errorf("%q: %q, %v; want %q", in, out.String(), err, want)
			}
		}
	}
}

// FuzzCleaner: whatever comes, nothing that drives a terminal gets through,
// however the stream is cut.
func FuzzCleaner(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\r\n\x1b]0;t\x07"), 3)
	f.Add([]byte("\xe2\x98\x83\x9b"), 1)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		at = max(0, min(at, len(data)))
		var whole, parts strings.Builder
		NewCleaner(&whole).Write(data)
		c := NewCleaner(&parts)
		c.Write(data[:at])
		c.Write(data[at:])
		if whole.String() != parts.String() || Clean(whole.String()) != whole.String() {
			t.Errorf("%q and %q of %q", whole.String(), parts.String(), data)
		}
	})
}
