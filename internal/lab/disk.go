package lab

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml/ast"
)

// Disk is a disk of a machine besides the one that its root may be on: one that
// is new (Size), or an image of the person's (From).
type Disk struct {
	Name     string     // as the machine reads it, and its file in the lab's folder is called
	Size     Size       // of a new one
	Format   DiskFormat // what a new one holds
	From     string     // an image, raw or qcow2; relative to the file
	InPlace  bool       // what is written goes into From
	ReadOnly bool       // From can't be written to
	Mount    string     // where the machine mounts its file system; empty means nowhere
}

// DiskFormat is the file system on a new disk.
type DiskFormat string

// The file systems.
const (
	DiskEmpty DiskFormat = "" // zeros
	DiskExt2  DiskFormat = "ext2"
	DiskExt3  DiskFormat = "ext3"
	DiskExt4  DiskFormat = "ext4"
	DiskFAT   DiskFormat = "fat"
)

// DiskFormats are the words for the file systems.
func DiskFormats() []string {
	return []string{string(DiskExt2), string(DiskExt3), string(DiskExt4), string(DiskFAT)}
}

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
		{"format", "The file system on a new one; it is empty if absent.", wordShape(DiskFormats()...),
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

// wrong says what can't be together of what the file says of a disk.
func (k *Disk) wrong() string {
	switch {
	case (k.Size == 0) == (k.From == ""):
		return "a disk is a new one (size) or an image of yours (from)"
	case k.From == "" && (k.InPlace || k.ReadOnly):
		return "in-place and read-only are about an image (from); this disk is a new one"
	case k.From != "" && k.Format != DiskEmpty:
		return "format is for a new disk (size); what an image holds is told by its content"
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
