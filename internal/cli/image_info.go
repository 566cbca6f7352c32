package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wolffia/internal/image/disk"
	"wolffia/internal/image/imagefile"
	"wolffia/internal/image/oci"
	"wolffia/internal/tree"
)

func newImageInfo(env Env) *cobra.Command {
	o := &imageOptions{}
	cmd := &cobra.Command{
		Use:   "info IMAGE...",
		Short: "Tell what an image is and what it holds",
		Long: `Tells what an image is: its format and compression; a disk's partitions with
their type, name, UUID, place and file system; a qcow2's clusters and backing
file; a container image's platform, configuration and layers; a UEFI program's
sections, kernel version and command line.`,
		Example: `  wolffia image info disk.img
  wolffia image info --json disk.qcow2 | jq -r '.[0].partitions[].uuid'`,
		Args: wantImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []*imageInfo
			var out page
			for i, arg := range args {
				info, err := o.info(cmd.Context(), env, arg)
				if err != nil {
					return err
				}
				all = append(all, info)
				out.printf("%s", strings.Repeat("\n", min(i, 1)))
				info.print(&out)
			}
			if o.json {
				return writeJSON(env.Stdout, all)
			}
			return out.show(env)
		},
	}
	o.flags(env, cmd)
	o.jsonFlag(cmd)
	return cmd
}

// imageInfo is what there is to say about an image, and its JSON form. Sizes and
// offsets are in bytes.
type imageInfo struct {
	Image      string          `json:"image"` // as it was named
	Format     disk.Format     `json:"format"`
	Packed     []disk.Format   `json:"packed,omitempty"`
	Size       int64           `json:"size,omitempty"`   // of the file
	Length     int64           `json:"length,omitempty"` // unpacked, or of the disk
	QCOW2      *qcow2Info      `json:"qcow2,omitempty"`
	UUID       string          `json:"uuid,omitempty"` // of the disk
	Partitions []partInfo      `json:"partitions,omitempty"`
	FileSystem *fileSystemInfo `json:"fileSystem,omitempty"`
	Files      *filesInfo      `json:"files,omitempty"`
	Containers []oci.Summary   `json:"containers,omitempty"`
	UEFI       *uefiInfo       `json:"uefi,omitempty"`
	Damage     []string        `json:"damage,omitempty"`
}

type qcow2Info struct {
	Version       int    `json:"version"`
	ClusterSize   int    `json:"clusterSize"`
	Compression   string `json:"compression,omitempty"`
	Backing       string `json:"backing,omitempty"`
	BackingFormat string `json:"backingFormat,omitempty"`
	Snapshots     int    `json:"snapshots,omitempty"`
	Data          int64  `json:"data"` // of the disk, in what is allocated, backing files included; -1 where it can't be read
}

type partInfo struct {
	Number     int             `json:"number"`
	Type       string          `json:"type"`
	Name       string          `json:"name,omitempty"`
	UUID       string          `json:"uuid"`
	Bootable   bool            `json:"bootable,omitempty"`
	Offset     int64           `json:"offset"`
	Size       int64           `json:"size"`
	Format     disk.Format     `json:"format"`
	FileSystem *fileSystemInfo `json:"fileSystem,omitempty"`
	Damage     string          `json:"damage,omitempty"`
}

type fileSystemInfo struct {
	Type     string   `json:"type"`
	Label    string   `json:"label,omitempty"`
	UUID     string   `json:"uuid"`
	Block    int      `json:"block"` // or cluster
	Size     int64    `json:"size"`
	Free     int64    `json:"free"` // -1 where it does not say
	Clean    bool     `json:"clean"`
	Features []string `json:"features,omitempty"`
}

type filesInfo struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"` // of regular files, hard links once
}

type uefiInfo struct {
	Arch     string        `json:"arch"`
	Unified  bool          `json:"unified"` // it is a unified kernel image
	Kernel   string        `json:"kernel,omitempty"`
	Cmdline  string        `json:"cmdline,omitempty"`
	OS       string        `json:"os,omitempty"`
	Sections []sectionInfo `json:"sections"`
}

type sectionInfo struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

func (o *imageOptions) info(ctx context.Context, env Env, arg string) (*imageInfo, error) {
	s, err := o.subjectOf(env, arg)
	if err != nil {
		return nil, err
	}
	if !s.whole {
		return nil, usagef("%s: info is about whole images; see wolffia image ls -l", quoted(arg))
	}
	f, close, err := o.openImage(ctx, env, s)
	if err != nil {
		return nil, err
	}
	defer close()
	i := &imageInfo{Image: arg, Format: f.Format, Packed: f.Packed, Size: f.Size}
	if f.Length != f.Size {
		i.Length = f.Length
	}
	i.damage(f.Damage)
	i.ofQCOW2(f)
	if f.Disk != nil {
		i.ofDisk(f.Disk)
	}
	if f.UEFI != nil {
		i.ofUEFI(f)
	}
	switch {
	case f.Damage != nil:
	case f.Format == imagefile.OCI:
		i.Containers, err = f.Containers()
		i.damage(err)
	case f.Format == disk.CPIO || f.Format == disk.Tar:
		i.ofArchive(f)
	}
	return i, nil
}

func (i *imageInfo) damage(err error) {
	if err != nil {
		i.Damage = append(i.Damage, err.Error())
	}
}

func (i *imageInfo) ofQCOW2(f *imagefile.File) {
	q := f.QCOW2
	if q == nil {
		return
	}
	i.QCOW2 = &qcow2Info{q.Version, q.ClusterSize, string(q.Compression), q.Backing, q.BackingFormat, q.Snapshots, f.Allocated()}
	if q.Corrupt {
		i.Damage = append(i.Damage, "QEMU marked the image as corrupt")
	}
	if q.Dirty {
		i.Damage = append(i.Damage, "the image was not closed: its reference counts may be wrong")
	}
}

func (i *imageInfo) ofDisk(d *disk.Image) {
	for _, err := range d.Damage {
		i.damage(err)
	}
	i.UUID = d.UUID
	for k := range d.Parts {
		p := &d.Parts[k]
		fs, err := fileSystemOf(p)
		if p.Number == 0 {
			i.FileSystem = fs
			i.damage(err)
			continue
		}
		part := partInfo{
			Number: p.Number, Type: p.Type, Name: p.Name, UUID: p.UUID, Bootable: p.Bootable,
			Offset: p.Offset, Size: p.Size, Format: p.Format, FileSystem: fs,
		}
		if err != nil {
			part.Damage = err.Error()
		}
		i.Partitions = append(i.Partitions, part)
	}
}

// fileSystemOf is what is in a part; nil and no error where no file system is
// that we can read.
func fileSystemOf(p *disk.Part) (*fileSystemInfo, error) {
	if p.Format != disk.Ext && p.Format != disk.FAT {
		return nil, nil
	}
	fs, err := p.FileSystem()
	if err != nil {
		return nil, err
	}
	return &fileSystemInfo{fs.Type, fs.Label, fs.UUID, fs.Block, fs.Size, fs.Free, fs.Clean, fs.Features}, nil
}

func (i *imageInfo) ofArchive(f *imagefile.File) {
	t, err := f.Tree(0)
	if err != nil {
		i.damage(err)
		return
	}
	i.Files = &filesInfo{}
	seen := map[*tree.Node]bool{}
	below(t.Root(), "/", func(_ string, n *tree.Node) {
		i.Files.Entries++
		if n.Type() == tree.TypeRegular && !seen[n] {
			seen[n] = true
			i.Files.Bytes += n.Size()
		}
	})
}

func (i *imageInfo) ofUEFI(f *imagefile.File) {
	u := &uefiInfo{Arch: f.UEFI.Arch, Unified: f.UEFI.Unified()}
	for _, s := range f.UEFI.Sections {
		u.Sections = append(u.Sections, sectionInfo{s.Name, s.Size})
	}
	text := func(section string) string {
		text, err := f.UEFI.Text(section)
		i.damage(err)
		return strings.TrimRight(text, "\x00\n ")
	}
	u.Kernel, u.Cmdline, u.OS = text(".uname"), text(".cmdline"), prettyName(text(".osrel"))
	i.UEFI = u
}

// prettyName is the system's name in an os-release(5).
func prettyName(text string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}

func (i *imageInfo) print(out *page) {
	row := func(label, format string, args ...any) {
		out.printf("%-12s %s\n", label+":", fmt.Sprintf(format, args...))
	}
	row("image", "%s", quoted(i.Image))
	format := formatName(i.Format)
	for _, p := range i.Packed {
		format += ", compressed with " + string(p)
	}
	row("format", "%s", format)
	if i.Size > 0 {
		row("size", "%s", bytesText(i.Size))
	}
	if i.Length > 0 && i.QCOW2 == nil {
		row("unpacked", "%s", bytesText(i.Length))
	}
	if i.QCOW2 != nil {
		i.QCOW2.print(row, i.Length)
	}
	if i.UUID != "" {
		row("disk UUID", "%s", i.UUID)
	}
	if i.FileSystem != nil {
		i.FileSystem.print(row)
	}
	if i.Files != nil {
		row("holds", "%d entries, files of %s", i.Files.Entries, bytesText(i.Files.Bytes))
	}
	if i.UEFI != nil {
		i.UEFI.print(row)
	}
	for k := range i.Containers {
		printContainer(row, &i.Containers[k])
	}
	for k := range i.Partitions {
		i.Partitions[k].print(out)
	}
	for _, d := range i.Damage {
		row("damage", "%s", d)
	}
}

type rowFunc func(label, format string, args ...any)

func bytesText(n int64) string {
	if n < 1024 {
		return sizeText(n)
	}
	return fmt.Sprintf("%s (%d bytes)", sizeText(n), n)
}

// formatNames are for people; what is missing has its own name.
var formatNames = map[disk.Format]string{
	disk.DiskGPT: "disk with a GUID partition table", disk.DiskMBR: "disk with an MBR partition table",
	disk.Ext: "ext file system", disk.FAT: "FAT file system", disk.CPIO: "cpio archive", disk.Tar: "tar archive",
	disk.UEFI: "UEFI program", imagefile.OCI: "OCI image", disk.SquashFS: "SquashFS file system",
	disk.ISO9660: "ISO 9660 file system", disk.Swap: "swap space", disk.Empty: "nothing but zeros", disk.Unknown: "unknown",
}

func formatName(f disk.Format) string {
	if name := formatNames[f]; name != "" {
		return name
	}
	return string(f)
}

func (q *qcow2Info) print(row rowFunc, length int64) {
	row("qcow2", "version %d, clusters of %s", q.Version, sizeText(int64(q.ClusterSize)))
	row("disk size", "%s", bytesText(length))
	if q.Data >= 0 {
		row("allocated", "%s", bytesText(q.Data))
	}
	if q.Backing != "" {
		row("backing", "%s %s", quoted(q.Backing), strings.TrimSpace("("+q.BackingFormat+")"))
	}
	if q.Snapshots > 0 {
		row("snapshots", "%d", q.Snapshots)
	}
}

func (f *fileSystemInfo) print(row rowFunc) {
	row("file system", "%s", f.Type)
	if f.Label != "" {
		row("label", "%s", quoted(f.Label))
	}
	row("UUID", "%s", f.UUID)
	row("blocks", "of %s", sizeText(int64(f.Block)))
	if f.Free >= 0 {
		row("free", "%s of %s", sizeText(f.Free), sizeText(f.Size))
	}
	if !f.Clean {
		row("state", "not clean: it was not unmounted, or has errors")
	}
	if len(f.Features) > 0 {
		row("features", "%s", strings.Join(f.Features, " "))
	}
}

func (u *uefiInfo) print(row rowFunc) {
	if u.Unified {
		row("kind", "unified kernel image")
	}
	row("arch", "%s", quoted(u.Arch))
	for _, line := range [][2]string{{"kernel", u.Kernel}, {"cmdline", u.Cmdline}, {"system", u.OS}} {
		if line[1] != "" {
			row(line[0], "%s", quoted(line[1]))
		}
	}
	for _, s := range u.Sections {
		row("section", "%-9s %s", quoted(s.Name), bytesText(s.Size))
	}
}

func printContainer(row rowFunc, c *oci.Summary) {
	row("container", "%s", c.Digest)
	row("arch", "%s", quoted(c.Arch))
	if c.Ref != "" {
		row("name", "%s", quoted(c.Ref))
	}
	if !c.Created.IsZero() {
		row("created", "%s", c.Created.UTC().Format(time.RFC3339))
	}
	for _, l := range c.Layers {
		row("layer", "%s  %s", l.Name, sizeText(l.Size))
	}
	list := func(label string, words []string) {
		if len(words) == 0 {
			return
		}
		shown := make([]string, len(words))
		for i, w := range words {
			shown[i] = quoted(w)
		}
		row(label, "%s", strings.Join(shown, " "))
	}
	list("entrypoint", c.Config.Entrypoint)
	list("command", c.Config.Cmd)
	list("environment", c.Config.Env)
	for _, line := range [][2]string{{"user", c.Config.User}, {"folder", c.Config.WorkingDir}} {
		if line[1] != "" {
			row(line[0], "%s", quoted(line[1]))
		}
	}
}

func (p *partInfo) print(out *page) {
	out.printf("\npartition %d: %s\n", p.Number, p.Type)
	row := func(label, format string, args ...any) {
		out.printf("  %-12s %s\n", label+":", fmt.Sprintf(format, args...))
	}
	if p.Name != "" {
		row("name", "%s", quoted(p.Name))
	}
	row("PARTUUID", "%s", p.UUID)
	row("offset", "%s", bytesText(p.Offset))
	row("size", "%s", bytesText(p.Size))
	if p.Bootable {
		row("bootable", "yes")
	}
	switch {
	case p.FileSystem != nil:
		p.FileSystem.print(row)
	case p.Damage == "":
		row("holds", "%s", formatName(p.Format))
	}
	if p.Damage != "" {
		row("damage", "%s", p.Damage)
	}
}
