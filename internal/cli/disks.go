package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/event"
	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/rootfs"
	"wolffia/internal/tree"
)

// Of each disk that the file gives a machine there are, in the lab's folder of
// disks or, for a throwaway machine, in the machine's own, as MACHINE.DISK with
//
//   - .img: a new disk, or the copy of an image that the backend can't read. The
//     machine writes to it; any backend can.
//   - .made: what that was made as, a madeDisk.
//   - .new: an .img that is being made, in file systems without files that have no name.
//   - .cow: what the machine wrote over an image, in the backend's form.

// diskContent is what a machine's disk is found to be.
type diskContent struct {
	file    fs.FileInfo // of an image
	format  string      // machine.Raw or machine.QCOW2
	size    int64       // bytes of an image's file
	changed time.Time
	part    int // of its root file system; 0 means that this is all of the disk
	holds   fileSystem
	unclean bool // its file system wants to be written to before it is mounted
}

// fileSystem is one that a machine can mount.
type fileSystem struct {
	mount    string   // its type for mount(8); empty where none is known
	modules  []string // its drivers
	options  string   // of mount(8)
	readOnly bool
}

// fileSystems are those that are told by their content.
var fileSystems = map[disk.Format]fileSystem{
	disk.Ext: {mount: "ext4", modules: []string{"ext4"}}, // a driver for ext2 and ext3, too
	// One of the last two modules is what names are in for the kernel, by its configuration.
	disk.FAT:      {mount: "vfat", modules: []string{"vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"}, options: "utf8"},
	disk.SquashFS: {mount: "squashfs", modules: []string{"squashfs"}, readOnly: true},
	disk.ISO9660:  {mount: "iso9660", modules: []string{"isofs"}, readOnly: true},
}

// disks gives a machine the disks of --disk, besides those of the file, looks at
// the images among all of them, and tells what is on each.
func (p *project) disks(env Env, flags []string, m *lab.Machine) ([]diskContent, error) {
	out, err := p.checkDisks(env, m)
	if err != nil {
		return nil, err
	}
	for _, text := range flags {
		k, err := lab.ParseDisk(text)
		if err == nil {
			err = m.AddDisk(k)
		}
		if err != nil {
			return nil, &usageError{err}
		}
		last := &m.Disks[len(m.Disks)-1]
		if last.From != "" {
			last.From = inDir(env.Dir, last.From)
		}
		c, err := lookAtDisk("", *last)
		if err == nil {
			err = c.clash(out, m)
		}
		if err != nil {
			return nil, usagef("disk %s: %w", text, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// checkDisks looks at the images that the file gives a machine, and tells what is
// on all of its disks.
func (l *labFile) checkDisks(env Env, m *lab.Machine) (out []diskContent, err error) {
	for i, k := range m.Disks {
		c, err := lookAtDisk(l.dir(env), k)
		if err == nil {
			err = c.clash(out, m)
		}
		if err != nil {
			return nil, l.diskError(m, i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// clash looks for one image, which the machine writes to, as two of its disks: c,
// which comes behind those before, and another.
func (c diskContent) clash(before []diskContent, m *lab.Machine) error {
	k := m.Disks[len(before)]
	for i, other := range before {
		if c.file != nil && other.file != nil && os.SameFile(c.file, other.file) && (k.InPlace || m.Disks[i].InPlace) {
			return fmt.Errorf("%s is the disk %s of this machine, too, and is written to in place; give one of both an image of its own", k.From, m.Disks[i].Name)
		}
	}
	return nil
}

// diskError has a mistake in what the file says of a machine's disk.
func (l *labFile) diskError(m *lab.Machine, i int, err error) error {
	key := "from"
	if m.Disks[i].From == "" {
		key = "size"
	}
	return lab.ErrorAt(l.title, l.text, err, "machines", m.Name, "disks", strconv.Itoa(i), key)
}

// lookAtDisk tells what a disk is, an image by its content. Images are found from
// the folder dir.
func lookAtDisk(dir string, k lab.Disk) (c diskContent, err error) {
	c.format = machine.Raw
	switch {
	case k.From != "":
		return lookAtImage(inDir(dir, k.From), k)
	case k.Format == lab.DiskFAT:
		c.holds = fileSystems[disk.FAT]
	case k.Format != lab.DiskEmpty:
		c.holds = fileSystems[disk.Ext]
	}
	return c, nil
}

func lookAtImage(path string, k lab.Disk) (c diskContent, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, fmt.Errorf("there is no disk image %s", path)
	case err != nil:
		return c, err
	case info.IsDir():
		return c, fmt.Errorf("%s is a folder, and no disk image; a machine sees folders as shares", path)
	case !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeDevice:
		return c, fmt.Errorf("%s is neither a file nor a block device", path)
	}
	how := os.O_RDONLY
	if k.InPlace {
		how = os.O_RDWR
	}
	f, err := os.OpenFile(path, how, 0)
	if err != nil {
		return c, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return c, err
	}
	if size == 0 {
		return c, fmt.Errorf("%s is of no size; truncate -s 1G %[1]s makes it an empty disk", path)
	}
	format, err := imageForm(f, size, path, k.Format)
	if err != nil {
		return c, err
	}
	c = diskContent{file: info, format: format, size: size, changed: info.ModTime().UTC()}
	var content io.ReaderAt = f
	if format == machine.QCOW2 {
		image, err := openQCOW2(f, path, k)
		if err != nil {
			return c, err
		}
		defer image.Close()
		content, size = image, image.Size()
	}
	if k.InPlace && k.Mount == "" {
		return c, nil // what it holds changes, and nobody asks
	}
	if err := c.findRoot(content, size); err != nil && k.Mount != "" {
		return c, fmt.Errorf("%s can't be mounted on %s: %w", path, k.Mount, err)
	}
	return c, nil
}

// imageForm is the form of an image, one of machine's, by what the file says of it
// or else by its content. A machine may have written anything on a raw disk: what
// looks like no disk at all is one if the file says so.
func imageForm(f *os.File, size int64, path string, says lab.DiskFormat) (string, error) {
	if says == lab.DiskRaw {
		return machine.Raw, nil
	}
	format, err := disk.Detect(f, size)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", path, err)
	case format == disk.QCOW2:
		return machine.QCOW2, nil
	case says == lab.DiskQCOW2:
		return "", fmt.Errorf("%s is no qcow2; what it holds is: %s", path, format)
	}
	switch format {
	case disk.Gzip, disk.Zstd, disk.XZ:
		return "", fmt.Errorf("%s is compressed (%s); unpack it first, or add format: raw to have it on a disk as it is", path, format)
	case disk.CPIO, disk.Tar, disk.UEFI:
		return "", fmt.Errorf("%s is of format %s, and no disk image; add format: raw to have it on a disk as it is", path, format)
	}
	return machine.Raw, nil
}

// openQCOW2 looks whether an image can be read, with those below it. An image
// that a machine writes to has none below: what the machine makes a raw disk look
// like has no say in which of the host's files are read.
func openQCOW2(f *os.File, path string, k lab.Disk) (*qcow2.Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	is, err := qcow2.Stat(f, info.Size())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case is.Corrupt:
		return nil, fmt.Errorf("%s is marked as damaged by QEMU; see: qemu-img check %[1]s", path)
	case k.InPlace && is.Backing != "":
		return nil, fmt.Errorf("%s lies over another image, %q, and can't be written in place; leave in-place out, or make one image of both: qemu-img convert -O qcow2", path, is.Backing)
	}
	image, err := qcow2.OpenFile(path, qcow2.FileOptions{})
	var at *fs.PathError
	if err != nil && !errors.As(err, &at) {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return image, err
}

// findRoot finds the file system of a disk that can be mounted. It does so by marks
// alone: a machine may be about to write to all else, and to leave it unclean.
func (c *diskContent) findRoot(r io.ReaderAt, size int64) error {
	image, err := disk.Open(r, size)
	if err != nil {
		return err
	}
	p, err := image.Part(0)
	if err != nil {
		return err
	}
	holds, ok := fileSystems[p.Format]
	if !ok {
		return fmt.Errorf("there is no ext, FAT, squashfs or ISO 9660 file system on it; what it holds is: %s", p.Format)
	}
	c.part, c.holds = p.Number, holds
	if p.Format == disk.Ext {
		c.unclean, err = ext4.NeedsRecovery(p.Reader())
	}
	return err
}

// addDisks gives a machine that is prepared the disks of the file, behind that of
// its root. What it writes to all of them is kept in the folder keep; if that is
// empty, it is gone with the machine.
func (p *project) addDisks(ctx context.Context, env Env, r *ready, found []diskContent, keep string, events event.Sink) error {
	c := &r.config
	if keep != "" && len(c.Disks)+len(found) > 0 {
		if err := os.MkdirAll(keep, 0o700); err != nil {
			return fmt.Errorf("make a folder for the disks: %w", err)
		}
		for i := range c.Disks {
			c.Disks[i].Overlay = rootOverlay(keep, c.Machine, i)
			c.Disks[i].Base = filepath.Base(c.Disks[i].Path)
		}
	}
	first := c.Backend.Guest(c.Arch).Disk
	for i, k := range c.Machine.Disks {
		d, err := p.addDisk(ctx, env, r, i, found[i], keep, events)
		var mistake *diskMistake
		switch {
		case errors.As(err, &mistake) && i >= r.fileDisks:
			return usagef("disk %s: %w", k.Name, err)
		case errors.As(err, &mistake):
			return p.diskError(c.Machine, i, err)
		case err != nil:
			return fmt.Errorf("machine %s: make disk %s: %w", c.Machine.Name, k.Name, err)
		}
		if k.Mount != "" {
			device, holds := first[:len(first)-1]+string(first[len(first)-1]+byte(len(c.Disks))), found[i].holds
			if found[i].part != 0 {
				device += strconv.Itoa(found[i].part)
			}
			c.Mounts = append(c.Mounts, rootfs.Mount{What: device, Type: holds.mount, To: k.Mount, Options: holds.options, ReadOnly: k.ReadOnly || holds.readOnly})
		}
		c.Disks = append(c.Disks, d)
	}
	return nil
}

// rootOverlay is what a machine wrote over the i-th disk that its image gives it.
func rootOverlay(dir string, m *lab.Machine, i int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d", m.Name, i))
}

// addDisk makes the i-th disk that the file gives a machine, where it is not there
// yet.
func (p *project) addDisk(ctx context.Context, env Env, r *ready, i int, found diskContent, keep string, events event.Sink) (machine.Disk, error) {
	m, k := r.config.Machine, r.config.Machine.Disks[i]
	d, made, err := p.planDisk(env, m, i, found, r.kernel != nil && r.kernel.UML, keep)
	if err != nil || made == nil {
		return d, err
	}
	kept := keptName(cmp.Or(keep, r.config.Dir), m, k)
	d.Path = kept + ".img"
	return d, made.make(kept, func(f *os.File) error {
		if k.From == "" {
			seed := sha256.Sum256(fmt.Appendf(nil, "disk %s %s %s", p.Name, m.Name, k.Name))
			return newDisk(f, k, seed)
		}
		return copyDisk(ctx, f, made.From, events)
	})
}

// keptName is what the files of a machine's disk in a folder are called, but for
// their ends.
func keptName(dir string, m *lab.Machine, k lab.Disk) string {
	return filepath.Join(dir, m.Name+"."+k.Name)
}

// planDisk says what the i-th disk that the file gives a machine is, without
// making it: the .img of a madeDisk, whose path is left open, or an image. What is
// kept as something else is a [*diskMistake].
func (p *project) planDisk(env Env, m *lab.Machine, i int, found diskContent, onUML bool, keep string) (machine.Disk, *madeDisk, error) {
	k := m.Disks[i]
	own := machine.Disk{Format: machine.Raw, Serial: k.Name, Persistent: true}
	if k.From == "" {
		return own, &madeDisk{Size: int64(k.Size), Format: string(k.Format)}, nil
	}
	from := inDir(p.dir(env), k.From)
	image := machine.Disk{Path: from, Format: found.format, Serial: k.Name, ReadOnly: k.ReadOnly, Persistent: k.InPlace}
	if found.unclean && k.ReadOnly && k.Mount != "" { // the kernel would refuse
		return image, nil, &diskMistake{fmt.Errorf("%s can't be mounted read-only: it was not unmounted, and what its journal holds has to be written to it first; leave read-only out (the image stays as it is, and what is written is kept beside it), or repair the image: e2fsck, or a machine that has it in-place", from)}
	}
	switch {
	case found.format == machine.QCOW2 && onUML:
		if k.InPlace {
			return image, nil, &diskMistake{errors.New("User-Mode Linux writes to raw images in place, and this is a qcow2; give the machine backend: qemu, or leave in-place out")}
		}
		own.ReadOnly = k.ReadOnly
		return own, &madeDisk{Size: found.size, From: from, Changed: found.changed}, nil
	case keep != "" && !k.InPlace && !k.ReadOnly:
		kept := keptName(keep, m, k)
		image.Overlay = kept + ".cow"
		if _, err := os.Lstat(kept + ".img"); err == nil {
			return image, nil, keptMistake("a disk of its own, or a copy for another backend", "what is written over "+from)
		}
	}
	return image, nil, nil
}

// diskMistake is one of the person's, in what is said of a disk.
type diskMistake struct{ error }

func (e *diskMistake) Unwrap() error { return e.error }

// keptMistake is that a disk was kept as something else than the file says now.
func keptMistake(was, now string) error {
	return &diskMistake{fmt.Errorf("what is kept of this disk is %s, and the file says %s now; have it as it was, call it otherwise (name), or drop all disks of the lab: wolffia down --volumes", was, now)}
}

// madeDisk is what a disk of ours was made as.
type madeDisk struct {
	Size    int64     `json:"size"`             // bytes, of From's file if there is one
	Format  string    `json:"format,omitempty"` // a lab.DiskFormat
	From    string    `json:"from,omitempty"`   // an absolute path; empty of a new disk
	Changed time.Time `json:"changed,omitzero"` // From, at last
}

func (d madeDisk) String() string {
	switch {
	case d.From != "":
		return fmt.Sprintf("a copy of %s (%d bytes, changed at %s)", d.From, d.Size, d.Changed.Local().Format(time.RFC3339Nano))
	case d.Format == "":
		return fmt.Sprintf("a new one of %s, empty", lab.Size(d.Size))
	}
	return fmt.Sprintf("a new one of %s with %s", lab.Size(d.Size), d.Format)
}

// isKept says whether the disk kept+".img" is there. One that is not d is a
// [*diskMistake].
func (d madeDisk) isKept(kept string) (bool, error) {
	if _, err := os.Lstat(kept + ".cow"); err == nil {
		return false, keptMistake("what another backend wrote over an image", d.String())
	}
	if _, err := os.Lstat(kept + ".img"); err != nil {
		return false, nil
	}
	was, err := readMade(kept + ".made")
	if err == nil && was.String() != d.String() {
		err = keptMistake(was.String(), d.String())
	}
	return true, err
}

// make has write fill the disk kept+".img", unless that is there: as d, or the
// error is a [*diskMistake].
func (d madeDisk) make(kept string, write func(*os.File) error) error {
	if there, err := d.isKept(kept); there || err != nil {
		return err
	}
	// The record comes first: while there is no disk, nobody minds what it says.
	data, err := json.Marshal(d)
	if err == nil {
		err = os.WriteFile(kept+".made", data, 0o600)
	}
	if err != nil {
		return err
	}
	temp := kept + ".new"
	defer os.Remove(temp) // which may be of one that was killed
	f, _, err := newDraft(temp, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(write(f), f.Sync()); err != nil {
		return err
	}
	// Unlike a rename this leaves alone what somebody else made meanwhile.
	if err := giveName(f, kept+".img"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func readMade(path string) (d madeDisk, err error) {
	data, err := readBounded(path, 1<<16)
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read what the disk was made as: %w", err)
	}
	return d, nil
}

// newDisk fills the file of a new disk.
func newDisk(f *os.File, k lab.Disk, seed [sha256.Size]byte) error {
	t, label, now := tree.New(), k.Name, time.Now()
	t.Root().ModTime = now
	switch k.Format {
	case lab.DiskEmpty:
		return f.Truncate(int64(k.Size))
	case lab.DiskFAT:
		o := fat.Options{Size: int64(k.Size), Label: label[:min(len(label), 11)], Time: now, Serial: uint32(seed[0])<<24 | uint32(seed[1])<<16 | uint32(seed[2])<<8 | uint32(seed[3])}
		if _, err := fat.Size(t, o); err != nil {
			return &diskMistake{err}
		}
		return fat.Write(f, t, o)
	}
	o := ext4.Options{Type: ext4.Type(k.Format), Size: int64(k.Size), Label: label[:min(len(label), 16)], Time: now, UUID: [16]byte(seed[:16])}
	if _, err := ext4.Size(t, o); err != nil {
		return &diskMistake{err}
	}
	return ext4.Write(f, t, o)
}

// copyDisk writes what a qcow2 holds as a raw image, whose zeros take no room.
func copyDisk(ctx context.Context, f *os.File, path string, events event.Sink) (err error) {
	image, err := qcow2.OpenFile(path, qcow2.FileOptions{})
	if err != nil {
		return err
	}
	defer image.Close()
	lock, err := os.Open(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) { // as machines have it that write in place
		return &diskMistake{fmt.Errorf("%s can't be copied for User-Mode Linux: it is written to by another machine; stop that machine first", path)}
	}
	data, err := image.Data()
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	e := event.Event{Kind: event.Begin, Task: "copy disk", Subject: filepath.Base(path), Unit: event.Bytes}
	for _, x := range data {
		e.Total += x.Len
	}
	event.Or(events).Emit(e)
	defer func() {
		if e.Kind = event.Done; err != nil {
			e.Kind, e.Message = event.Fail, err.Error()
		}
		event.Or(events).Emit(e)
	}()
	const step = 4 << 20
	for _, x := range data {
		for off, end := x.Off, x.Off+x.Len; off < end; off += step {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(step, end-off)
			if _, err := io.Copy(io.NewOffsetWriter(f, off), io.NewSectionReader(image, off, n)); err != nil {
				return fmt.Errorf("copy %s: %w", path, err)
			}
			e.Kind, e.Current = event.Step, e.Current+n
			event.Or(events).Emit(e)
		}
	}
	return f.Truncate(image.Size())
}
