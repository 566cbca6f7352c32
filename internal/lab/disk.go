package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Disk is a disk of a machine besides the one that its root may be on: one that
// is new (Size), or an image of the person's (From).
type Disk struct {
	Name     string     // as the machine reads it, and its file in the lab's folder is called
	Size     Size       // of a new one
	Format   DiskFormat // what a new one holds, or the form that From is in
	From     string     // an image, raw or qcow2; relative to the file
	InPlace  bool       // what is written goes into From
	ReadOnly bool       // From can't be written to
	Mount    string     // where the machine mounts its file system; empty means nowhere
}

// DiskFormat is the file system on a new disk, or the form of an image.
type DiskFormat string

// The file systems, and the forms of images.
const (
	DiskEmpty DiskFormat = "" // zeros; or an image whose content tells its form
	DiskExt2  DiskFormat = "ext2"
	DiskExt3  DiskFormat = "ext3"
	DiskExt4  DiskFormat = "ext4"
	DiskFAT   DiskFormat = "fat"
	DiskRaw   DiskFormat = "raw"
	DiskQCOW2 DiskFormat = "qcow2"
)

// DiskFormats are the words for the file systems, and then those for images.
func DiskFormats() []string {
	return []string{string(DiskExt2), string(DiskExt3), string(DiskExt4), string(DiskFAT), string(DiskRaw), string(DiskQCOW2)}
}

// ofImage reports whether f is the form of an image.
func (f DiskFormat) ofImage() bool { return f == DiskRaw || f == DiskQCOW2 }

// MaxDisks is how many disks a machine may have besides that of its root.
const MaxDisks = 7

// maxDiskName is the length of the serial number of a virtio disk, in bytes.
const maxDiskName = 20

func diskKeys() []key[Disk] {
	return []key[Disk]{
		{"name", "What it is called: its serial number in the machine (QEMU), and its file in the lab's folder. disk1 for the first, and so on, if absent.", textShape("data"),
			func(d *decoder, n ast.Node, k *Disk) {
				if d.name(n, "name", &k.Name); len(k.Name) > maxDiskName {
					d.fail(n, "name %q of a disk has more than %d characters", k.Name, maxDiskName)
				}
			}},
		{"size", "Makes a new one of this size, which is kept until wolffia down --volumes.", scalarShape("2G"),
			func(d *decoder, n ast.Node, k *Disk) { parsed(d, n, "size", ParseDiskSize, &k.Size) }},
		{"format", "The file system on a new one, which is empty if absent; or, with from, the form of the image (raw, qcow2), which its content tells if absent.", wordShape(DiskFormats()...),
			func(d *decoder, n ast.Node, k *Disk) { choice(d, n, "format", DiskFormats(), &k.Format) }},
		{"from", "An image, raw or qcow2, relative to this file. It stays as it is: what the machine writes is kept beside it, until wolffia down --volumes.", textShape("./data.qcow2"),
			func(d *decoder, n ast.Node, k *Disk) { d.set(n, "from", &k.From) }},
		{"in-place", "With from: what the machine writes goes into the image itself.", boolShape(),
			func(d *decoder, n ast.Node, k *Disk) { d.flag(n, "in-place", &k.InPlace) }},
		{"read-only", "With from: the machine can only read it.", boolShape(),
			func(d *decoder, n ast.Node, k *Disk) { d.flag(n, "read-only", &k.ReadOnly) }},
		{"mount", "Where the machine mounts its file system.", textShape("/data"),
			func(d *decoder, n ast.Node, k *Disk) { parsed(d, n, "mount", parseMountPoint, &k.Mount) }},
	}
}

func (d *decoder) disks(n ast.Node) (out []Disk) {
	items := d.sequence(n, "disks")
	if len(items) > MaxDisks {
		d.fail(n, "a machine has at most %d disks besides that of its root, and these are %d", MaxDisks, len(items))
		return nil
	}
	for i, item := range items {
		k := Disk{Name: "disk" + strconv.Itoa(i+1)}
		before := len(d.errs)
		if object(d, item, "a disk", diskKeys(), &k); len(d.errs) == before {
			if why := k.wrong(); why != "" {
				d.fail(item, "%s", why)
			}
		}
		if slices.ContainsFunc(out, func(other Disk) bool { return other.Name == k.Name }) {
			d.fail(item, "two disks are called %s", k.Name)
		}
		out = append(out, k)
	}
	return out
}

// ParseDisk reads "SIZE|IMAGE[:FORMAT][:PLACE][:ro|:in-place]", as in
// "2G:ext4:/data" and "./data.qcow2:/data:ro". An image that is called like a size
// is written as ./2G. The disk has no name yet.
func ParseDisk(s string) (k Disk, err error) {
	bad := func(why string) (Disk, error) {
		return Disk{}, fmt.Errorf("disk %q: %s; write it as 2G:ext4:/data, or ./data.img:/data, with :ro or :in-place behind an image", s, why)
	}
	rest := s
	last := func() (head, tail string) {
		at := strings.LastIndexByte(rest, ':')
		if at < 0 {
			return rest, ""
		}
		return rest[:at], rest[at+1:]
	}
	switch head, tail := last(); tail {
	case "ro":
		k.ReadOnly, rest = true, head
	case "in-place":
		k.InPlace, rest = true, head
	}
	if head, tail := last(); strings.HasPrefix(tail, "/") {
		if k.Mount, err = parseMountPoint(tail); err != nil {
			return bad(err.Error())
		}
		rest = head
	}
	if head, tail := last(); slices.Contains(DiskFormats(), tail) {
		k.Format, rest = DiskFormat(tail), head
	}
	if rest == "" {
		return bad("there is neither a size nor an image")
	}
	if _, err := ParseSize(rest); err != nil {
		k.From = rest
	} else if k.Size, err = ParseDiskSize(rest); err != nil {
		return Disk{}, fmt.Errorf("disk %q: %w", s, err)
	}
	if why := k.wrong(); why != "" {
		return bad(why)
	}
	return k, nil
}

// AddDisk gives m a further disk, which has a name of its own if it has none.
func (m *Machine) AddDisk(k Disk) error {
	if len(m.Disks) >= MaxDisks {
		return fmt.Errorf("a machine has at most %d disks besides that of its root", MaxDisks)
	}
	named := func(name string) bool {
		return slices.ContainsFunc(m.Disks, func(other Disk) bool { return other.Name == name })
	}
	for n := len(m.Disks) + 1; k.Name == ""; n++ {
		if name := "disk" + strconv.Itoa(n); !named(name) {
			k.Name = name
		}
	}
	switch {
	case named(k.Name):
		return fmt.Errorf("two disks are called %s", k.Name)
	case k.Mount != "" && (slices.ContainsFunc(m.Disks, func(other Disk) bool { return other.Mount == k.Mount }) ||
		slices.ContainsFunc(m.Shares, func(s Share) bool { return s.To == k.Mount })):
		return fmt.Errorf("something else is at %s already", k.Mount)
	}
	m.Disks = append(m.Disks, k)
	return nil
}

// wrong says what can't be together of what the file says of a disk.
func (k *Disk) wrong() string {
	switch {
	case (k.Size == 0) == (k.From == ""):
		return "a disk is a new one (size) or an image of yours (from)"
	case k.From == "" && (k.InPlace || k.ReadOnly):
		return "in-place and read-only are about an image (from); this disk is a new one"
	case k.From != "" && k.Format != DiskEmpty && !k.Format.ofImage():
		return fmt.Sprintf("format %s is for a new disk (size); an image (from) is %s or %s, and what it holds is told by its content", k.Format, DiskRaw, DiskQCOW2)
	case k.From == "" && k.Format.ofImage():
		return fmt.Sprintf("format %s is for an image (from); a new disk has a file system, such as %s, or is empty without format", k.Format, DiskExt4)
	case k.InPlace && k.ReadOnly:
		return "a disk that is read-only is not written to in place"
	case k.Mount != "" && k.From == "" && k.Format == DiskEmpty:
		return fmt.Sprintf("there is nothing to mount on an empty disk; give it a format, such as %s", DiskExt4)
	}
	return ""
}

// checkMounts looks for two things of a machine in one place.
func (m *Machine) checkMounts(path func(string) []string, at *places) {
	taken := map[string]bool{}
	for _, s := range m.Shares {
		taken[s.To] = true
	}
	for i, k := range m.Disks {
		if k.Mount != "" && taken[k.Mount] {
			at.fail(path("disks"), i, "something else is at %s already", k.Mount)
		}
		taken[k.Mount] = true
	}
}
