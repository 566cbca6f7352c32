package wire

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzVDERequest: whatever a client says first, what is understood of it is
// within bounds, and means the same when it is said again.
func FuzzVDERequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseVDERequest(b)
		if err != nil {
			if errors.Is(err, errShort) && len(b) >= vdeRequestLen {
				t.Errorf("%d bytes are said to be too few", len(b))
			}
			if !printableText(err.Error()) {
				t.Errorf("the error has what terminals obey: %q", err)
			}
			return
		}
		if len(b) < vdeRequestLen || r.port < 0 || r.port > maxVDEPort || r.management && r.port != 0 {
			t.Errorf("%+v of %d bytes", r, len(b))
		}
		if path := r.addr.path(); !r.addr.abstract() && (!strings.HasPrefix(path, "/") || len(path) > maxSunPath) {
			t.Errorf("path %q", path)
		}
		if !printableText(r.description) || utf8.RuneCountInString(r.description) > vdeDescription {
			t.Errorf("description %q", r.description)
		}
		again, err := parseVDERequest(r.marshal())
		if err != nil {
			t.Fatalf("said again: %v", err)
		}
		// '?' takes no more bytes than what it stands for, but padding may look
		// like a description and the reverse.
		if r.addr.abstract() {
			again.description = r.description
		}
		if *again != *r {
			t.Errorf("%+v became %+v", r, again)
		}
	})
}

func printableText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// TestVDERequest holds the message to bytes written by hand.
func TestVDERequest(t *testing.T) {
	r := vdeRequest{port: 5, addr: pathAddr("/run/sw/.00042-00000"), description: "a plug"}
	b := r.marshal()
	head := "\xce\xfa\xed\xfe" + "\x03\x00\x00\x00" + "\x00\x05\x00\x00" + "\x01\x00" + "/run/sw/.00042-00000"
	want := head + strings.Repeat("\x00", 122-len(head)) + "a plug"
	if string(b) != want {
		t.Errorf("%q, want %q", b, want)
	}
	if got, err := parseVDERequest(b); err != nil || *got != r {
		t.Errorf("%+v, %v", got, err)
	}
}
