package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What backends share that run a machine as a process of the host.

// Limits are what a backend's machines can have.
type Limits struct {
	MinMemory, MaxMemory int64 // bytes
	MaxNICs, MaxDisks    int
	MaxShares            int
	MaxChannels          int
}

// The MTUs that a NIC can have, in bytes.
const (
	MinMTU = 68 // RFC 791
	MaxMTU = 65535 - 14 - 4
)

// Check fills in what a Spec leaves open, in copies of its lists, and refuses
// what no machine can be.
func (s *Spec) Check(l Limits) error {
	if s.Memory == 0 {
		s.Memory = DefaultMemory
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("machine %s: "+format, append([]any{s.Name}, args...)...)
	}
	switch {
	case s.Memory < l.MinMemory:
		return &StartError{
			Machine: s.Name, Stage: "start", Cause: fmt.Sprintf("%d MiB of memory are too little for any Linux", s.Memory>>20),
			Fix: fmt.Sprintf("give it at least %dM (--memory)", l.MinMemory>>20),
		}
	case s.Memory > l.MaxMemory:
		return bad("%d bytes of memory are too many; the most is %d GiB", s.Memory, l.MaxMemory>>30)
	case len(s.NICs) > l.MaxNICs:
		return bad("%d network interfaces are too many; the most is %d", len(s.NICs), l.MaxNICs)
	case len(s.Disks) > l.MaxDisks:
		return bad("%d disks are too many; the most is %d", len(s.Disks), l.MaxDisks)
	case len(s.Shares) > l.MaxShares:
		return bad("%d shared folders are too many; the most is %d", len(s.Shares), l.MaxShares)
	case len(s.Channels) > l.MaxChannels:
		return bad("%d channels are too many; the most is %d", len(s.Channels), l.MaxChannels)
	case !filepath.IsAbs(s.Dir):
		return bad("folder %q must be an absolute path", s.Dir)
	case s.Firmware == FirmwareNone && !filepath.IsAbs(s.Kernel):
		return bad("kernel %q must be an absolute path", s.Kernel)
	case s.Firmware != FirmwareNone && (s.Kernel != "" || len(s.Initramfs) > 0 || len(s.Cmdline) > 0):
		return bad("firmware %s boots from a disk: it takes no kernel, initramfs or kernel parameters", s.Firmware)
	case s.Firmware != FirmwareNone && len(s.Disks) == 0:
		return bad("firmware %s boots from a disk, and there is none", s.Firmware)
	}
	s.NICs, s.Disks = slices.Clone(s.NICs), slices.Clone(s.Disks)
	for i := range s.NICs {
		n := &s.NICs[i]
		if n.MTU == 0 {
			n.MTU = 1500
		}
		if n.MTU < MinMTU || n.MTU > MaxMTU {
			return bad("network interface %d: an MTU of %d is not between %d and %d", i, n.MTU, MinMTU, MaxMTU)
		}
		if len(n.MAC) != 6 || n.MAC[0]&1 != 0 || slices.Equal(n.MAC, make(net.HardwareAddr, 6)) {
			return bad("network interface %d: %q is not the MAC address of one interface", i, n.MAC)
		}
	}
	for i := range s.Disks {
		d := &s.Disks[i]
		if d.Format == "" {
			d.Format = Raw
		}
		switch {
		case d.Format != Raw && d.Format != QCOW2:
			return bad("disk %d: format %q is neither %s nor %s", i, d.Format, Raw, QCOW2)
		case len(d.Serial) > 20 || strings.Trim(d.Serial, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "":
			return bad("disk %d: %q is no serial number", i, d.Serial)
		case !filepath.IsAbs(d.Path):
			return bad("disk %d: %q is not an absolute path", i, d.Path)
		case d.Overlay != "" && !filepath.IsAbs(d.Overlay):
			return bad("disk %d: the overlay %q is not an absolute path", i, d.Overlay)
		case d.Overlay != "" && (d.ReadOnly || d.Persistent):
			return bad("disk %d: writes go into its image, its overlay or nowhere, and it has more than one of these", i)
		}
		same := func(e Disk) bool { return d.Overlay != "" && e.Overlay == d.Overlay }
		if slices.ContainsFunc(s.Disks[:i], same) {
			return bad("disk %d: the overlay %s is another disk's", i, d.Overlay)
		}
	}
	for i, name := range s.Channels {
		if noTag(name) || slices.Contains(s.Channels[:i], name) {
			return bad("channel %d: %q is no name, or another's", i, name)
		}
	}
	for i, x := range s.Shares {
		same := func(y Share) bool { return y.Tag == x.Tag }
		switch {
		case noTag(x.Tag):
			return bad("shared folder %d: %q is no tag", i, x.Tag)
		case slices.ContainsFunc(s.Shares[:i], same):
			return bad("shared folder %d: the tag %s is another's", i, x.Tag)
		case !filepath.IsAbs(x.Path):
			return bad("shared folder %s: %q is not an absolute path", x.Tag, x.Path)
		}
	}
	return nil
}

// noTag reports whether tag is not one that any backend takes.
func noTag(tag string) bool {
	const ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	return tag == "" || len(tag) > 31 || tag[0] == '.' || strings.Trim(tag, ok) != ""
}

// CheckFiles opens what the Spec names, so that what can't be read is an error
// that names the file, before anything runs.
func (s *Spec) CheckFiles() error {
	for _, path := range s.Initramfs {
		if err := readable(path, os.O_RDONLY); err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
	}
	for i, d := range s.Disks {
		flags := os.O_RDONLY
		if d.Persistent && !d.ReadOnly {
			flags = os.O_RDWR
		}
		if err := readable(d.Path, flags); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	for _, x := range s.Shares {
		d, err := os.Open(x.Path)
		if err == nil {
			_, err = d.Readdirnames(1)
			d.Close()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("shared folder %s: %w", x.Tag, err)
		}
	}
	return nil
}

func readable(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	return err
}

// Parameters are a backend's kernel parameters, except those whose names
// further has too, and then further.
func Parameters(own, further []string) []string {
	var out []string
	for _, p := range own {
		name, _, _ := strings.Cut(p, "=")
		same := func(c string) bool { return c == name || strings.HasPrefix(c, name+"=") }
		if !slices.ContainsFunc(further, same) {
			out = append(out, p)
		}
	}
	return append(out, further...)
}

// NewInitramfs makes an empty file in memory, for [FillInitramfs].
func NewInitramfs() (*os.File, error) {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("join initramfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "initramfs"), nil
}

// FillInitramfs makes out the given cpio archives, one behind the other. Each
// begins at a multiple of four, as the kernel wants it (initramfs buffer
// format, Documentation/driver-api/early-userspace).
func FillInitramfs(out *os.File, paths []string) error {
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("join initramfs: %w", err)
	}
	if err := out.Truncate(0); err != nil {
		return fmt.Errorf("join initramfs: %w", err)
	}
	for _, path := range paths {
		if err := appendFile(out, path); err != nil {
			return fmt.Errorf("join initramfs: %w", err)
		}
	}
	return nil
}

func appendFile(out *os.File, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := transfer(out, in)
	if err != nil {
		return err
	}
	_, err = out.Write(make([]byte, -n&3))
	return err
}

// transfer copies what is left of in within the kernel, which takes three quarters of
// the time that it takes by way of our memory.
func transfer(out, in *os.File) (int64, error) {
	total := int64(0)
	for {
		n, err := unix.Sendfile(int(out.Fd()), int(in.Fd()), nil, 1<<30)
		switch {
		case err == unix.EINTR:
		case err != nil && total == 0: // of a file system that can't
			return io.Copy(out, in)
		case err != nil:
			return total, &os.PathError{Op: "sendfile", Path: in.Name(), Err: err}
		case n == 0:
			return total, nil
		}
		total += int64(max(n, 0))
	}
}

// StatusReader gives the status lines in r without the carriage returns that a
// guest's serial line puts before each newline, until r ends or is closed. It
// closes r then, if that can be: nobody else knows that all of it was read.
func StatusReader(r io.Reader) io.Reader { return statusReader{r} }

type statusReader struct{ r io.Reader }

func (s statusReader) Read(p []byte) (int, error) {
	for {
		n, err := s.r.Read(p)
		if err != nil && (errors.Is(err, fs.ErrClosed) || errors.Is(err, syscall.ECONNRESET)) {
			err = io.EOF
		}
		if c, ok := s.r.(io.Closer); ok && err != nil {
			c.Close()
		}
		kept := bytes.ReplaceAll(p[:n], []byte{'\r'}, nil)
		if n = copy(p, kept); n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// HostEnd says how a host process ended, for [Exit].Host.
func HostEnd(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "signal: " + ws.Signal().String()
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// LogTail gives the last n lines of a log that are fit for a report.
func LogTail(name string, n int) []string {
	const most = 64 << 10
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return Lines(string(b), n)
}
