package qemu

import (
	"bytes"
	"io"
	"os"

	"wolffia/internal/machine"
)

// console is our end of the serial line.
type console struct {
	machine.Transcript
	line   *os.File
	banner banner
}

// Write implements [machine.Console].
func (c *console) Write(p []byte) (int, error) { return c.line.Write(p) }

// Resize implements [machine.Console]: a serial line carries no size.
func (c *console) Resize(cols, rows int) error { return machine.ErrNoResize }

// pump moves the guest's output into the transcript until the machine is gone.
func (c *console) pump() {
	defer c.Transcript.Close()
	rest := c.skipBanner()
	_, _ = c.Transcript.Write(rest)
	_, _ = io.Copy(&c.Transcript, c.line)
}

// maxBanner bounds what is taken for a firmware's banner, in bytes.
const maxBanner = 16 << 10

// skipBanner reads the firmware's banner, if there is one, into the log alone.
// It gives what was read and is not part of it.
func (c *console) skipBanner() []byte {
	if c.banner.first == "" {
		return nil
	}
	var seen []byte
	buf := make([]byte, 4096)
	for len(seen) < maxBanner {
		n, err := c.line.Read(buf)
		seen = append(seen, buf[:n]...)
		end, more := c.banner.end(seen)
		if end > 0 {
			_, _ = c.Log.Write(seen[:end]) // a full disk must not stop the machine
			return seen[end:]
		}
		if err != nil || !more {
			break
		}
	}
	return seen
}

// end is where the banner in text ends, or 0; more says whether it could still
// be there.
func (b banner) end(text []byte) (end int, more bool) {
	if n := min(len(text), len(b.first)); string(text[:n]) != b.first[:n] {
		return 0, false
	}
	last := bytes.Index(text, []byte(b.last))
	if last < 0 {
		return 0, true
	}
	newline := bytes.IndexByte(text[last+len(b.last):], '\n')
	if newline < 0 {
		return 0, true
	}
	return last + len(b.last) + newline + 1, false
}

// banner is that of the firmware before a kernel which QEMU loads. In front of a
// disk it is part of what there is to see.
func (p *plan) banner() banner {
	if p.spec.Firmware != machine.FirmwareNone {
		return banner{}
	}
	return p.board.banner
}
