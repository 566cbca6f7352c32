package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/gpt"
	"wolffia/internal/image/mbr"
	"wolffia/internal/tree"
)

// Image is what a file holds.
type Image struct {
	Format Format
	Size   int64 // bytes
	// UUID is a partitioned disk's GUID, or its signature as of MBR.
	UUID string
	// Parts are a partitioned disk's partitions by their numbers. Anything else
	// has one, of number 0, which is all of it.
	Parts []Part
	// Damage is what is wrong with the partition table, though it could be read.
	Damage []error
}

// Part is a partition, or an image without any.
type Part struct {
	Number int
	// Type is what the partition table says that it is for, as in
	// [Partition.Type].
	Type         string
	Name         string
	UUID         string // PARTUUID
	Bootable     bool
	Offset, Size int64  // bytes; Size is what there is of it, if the image is cut off
	Format       Format // what lies in it

	r io.ReaderAt
}

// Reader reads a part's bytes.
func (p *Part) Reader() *io.SectionReader { return io.NewSectionReader(p.r, p.Offset, p.Size) }

// Open finds out what the size bytes of r are. r must stay readable for as long
// as the image is used.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	i := &Image{Size: size}
	err := i.open(r)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	return i, nil
}

func (i *Image) open(r io.ReaderAt) error {
	var err error
	if i.Format, err = Detect(r, i.Size); err != nil {
		return err
	}
	switch i.Format {
	case DiskGPT:
		err = i.openGPT(r)
	case DiskMBR:
		err = i.openMBR(r)
	default:
		i.Parts = []Part{{Size: i.Size, Format: i.Format, r: r}}
		return nil
	}
	if err != nil {
		return err
	}
	for k := range i.Parts {
		p := &i.Parts[k]
		p.r = r
		// What lies beyond the image's end is named in Damage.
		p.Offset = min(p.Offset, i.Size)
		p.Size = min(p.Size, i.Size-p.Offset)
		if p.Format, err = Detect(p.Reader(), p.Size); err != nil {
			return fmt.Errorf("partition %d: %w", p.Number, err)
		}
	}
	slices.SortStableFunc(i.Parts, func(a, b Part) int { return cmp.Compare(a.Number, b.Number) })
	return nil
}

func (i *Image) openGPT(r io.ReaderAt) error {
	t, err := gpt.Read(r, i.Size)
	if err != nil {
		return err
	}
	i.UUID, i.Damage = t.GUID.String(), t.Damage
	if err := t.Check(i.Size); err != nil {
		i.Damage = append(i.Damage, err)
	}
	for _, p := range t.Partitions {
		i.Parts = append(i.Parts, Part{
			Number: p.Number, Type: p.Type.TypeName(), Name: p.Name, UUID: p.GUID.String(),
			Bootable: p.Attributes&gpt.LegacyBoot != 0, Offset: p.Offset, Size: p.Size,
		})
	}
	return nil
}

func (i *Image) openMBR(r io.ReaderAt) error {
	t, err := mbr.Read(r, i.Size)
	if err != nil {
		return err
	}
	i.UUID = fmt.Sprintf("%08x", t.Signature)
	if err := t.Check(i.Size); err != nil {
		i.Damage = append(i.Damage, err)
	}
	for _, p := range t.Partitions {
		i.Parts = append(i.Parts, Part{
			Number: p.Number, Type: p.Type.String(), UUID: t.UUID(p.Number),
			Bootable: p.Bootable, Offset: p.Offset, Size: p.Size,
		})
	}
	return nil
}

// Part finds a partition by its number; 0 means an image's only file system, or
// the one that is the root: that has a root partition's type, or else is the
// last with an ext file system.
func (i *Image) Part(number int) (*Part, error) {
	if number == 0 {
		return i.root()
	}
	for k := range i.Parts {
		if i.Parts[k].Number == number {
			return &i.Parts[k], nil
		}
	}
	return nil, fmt.Errorf("the image has no partition %d", number)
}

func (i *Image) root() (*Part, error) {
	var ext, fat []*Part
	for k := range i.Parts {
		p := &i.Parts[k]
		if len(p.Type) > 5 && p.Type[:5] == "root-" {
			return p, nil
		}
		switch p.Format {
		case Ext:
			ext = append(ext, p)
		case FAT:
			fat = append(fat, p)
		}
	}
	if all := append(fat, ext...); len(all) > 0 {
		return all[len(all)-1], nil
	}
	if len(i.Parts) == 1 {
		return &i.Parts[0], nil
	}
	return nil, fmt.Errorf("none of the image's %d partitions has a file system that can be read", len(i.Parts))
}

// FileSystem is an open file system of either kind.
type FileSystem struct {
	Type  string // "ext4", "fat32"
	Label string
	UUID  string // as Linux shows it: 1234-ABCD of a FAT
	Block int    // bytes of a block or cluster
	Size  int64  // bytes
	Free  int64  // bytes; -1 where it does not say
	Clean bool   // it was unmounted, and no errors were seen
	// Features are those of an ext file system, by their names in mke2fs.
	Features []string

	tree func(tree.Limits) (*tree.Tree, error)
}

// ErrNoFileSystem says that a part holds no file system that can be read.
var ErrNoFileSystem = errors.New("there is no ext or FAT file system")

// FileSystem opens what lies in the part. One of another format gives an error
// that wraps [ErrNoFileSystem].
func (p *Part) FileSystem() (*FileSystem, error) {
	switch p.Format {
	case Ext:
		return openExt(p)
	case FAT:
		return openFAT(p)
	}
	if p.Number == 0 {
		return nil, fmt.Errorf("%w: the image is %s", ErrNoFileSystem, p.Format)
	}
	return nil, fmt.Errorf("partition %d: %w: it is %s", p.Number, ErrNoFileSystem, p.Format)
}

func openExt(p *Part) (*FileSystem, error) {
	f, err := ext4.Open(p.Reader(), p.Size)
	if err != nil {
		return nil, err
	}
	i := f.Info()
	return &FileSystem{
		Type: string(i.Type), Label: i.Label, UUID: gpt.GUID(i.UUID).String(), Block: i.BlockSize,
		Size: i.Size, Free: i.Free, Clean: i.Clean, Features: i.Features,
		tree: func(l tree.Limits) (*tree.Tree, error) { return f.Tree(ext4.TreeOptions{Limits: l}) },
	}, nil
}

func openFAT(p *Part) (*FileSystem, error) {
	f, err := fat.Open(p.Reader(), p.Size)
	if err != nil {
		return nil, err
	}
	i := f.Info()
	return &FileSystem{
		Type: string(i.Type), Label: i.Label, UUID: fmt.Sprintf("%04X-%04X", i.Serial>>16, i.Serial&0xFFFF), Block: i.ClusterSize,
		Size: i.Size, Free: i.Free, Clean: i.Clean,
		tree: func(l tree.Limits) (*tree.Tree, error) { return f.Tree(fat.TreeOptions{Limits: l}) },
	}, nil
}

// Tree reads the names and metadata of all files; contents stay where they are.
func (f *FileSystem) Tree(l tree.Limits) (*tree.Tree, error) { return f.tree(l) }
