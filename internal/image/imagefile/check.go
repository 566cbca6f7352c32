package imagefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"wolffia/internal/image/disk"
	"wolffia/internal/image/ext4"
	"wolffia/internal/image/fat"
	"wolffia/internal/image/finding"
	"wolffia/internal/image/oci"
	"wolffia/internal/image/qcow2"
	"wolffia/internal/tree"
)

// Check looks for damage in all of the image that is understood: the tables of a
// qcow2, partition tables with their backups, file systems, all files of an
// archive, and all layers of OCI images. What is not looked at is noted. An error
// says that the check itself could not be done.
func (f *File) Check(ctx context.Context) (*finding.List, error) {
	l := &finding.List{}
	if f.QCOW2 != nil {
		if err := f.checkQCOW2(ctx, l); err != nil {
			return nil, err
		}
	}
	if f.Damage != nil {
		l.Problem(string(f.Format), "%v", f.Damage)
		return l, nil
	}
	switch {
	case f.Disk != nil:
		return l, f.checkDisk(ctx, l)
	case f.Format == OCI:
		dir, err := f.dir()
		if err != nil {
			return nil, err
		}
		all, err := oci.Check(ctx, f.source, oci.ReadOptions{Scratch: dir, MaxSize: f.o.MaxSize, Limits: f.o.Limits})
		return l, f.add(ctx, l, "", all, err)
	case f.tree != nil:
		return l, f.checkFiles(ctx, l)
	case f.UEFI != nil && !f.UEFI.Unified():
		l.Note(string(f.Format), "it is no unified kernel image; its sections lie within the file")
	}
	return l, ctx.Err()
}

// add adds the findings about a part; err is why there are none, which is a
// problem of the image unless the check was ended.
func (f *File) add(ctx context.Context, l *finding.List, where string, all *finding.List, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if where == "" {
			where = string(f.Format)
		}
		l.Problem(where, "%v", err)
		return nil
	}
	l.Within(where, all)
	return nil
}

func (f *File) checkQCOW2(ctx context.Context, l *finding.List) error {
	r, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer r.Close()
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	all, err := qcow2.Check(ctx, r, size)
	if f.QCOW2.Backing != "" {
		l.Note("qcow2", "its tables were looked at, and not those of its backing file %.200q", f.QCOW2.Backing)
	}
	return f.add(ctx, l, "qcow2", all, err)
}

func (f *File) checkDisk(ctx context.Context, l *finding.List) error {
	for _, err := range f.Disk.Damage {
		l.Problem("partition table", "%v", err)
	}
	for i := range f.Disk.Parts {
		p := &f.Disk.Parts[i]
		where := ""
		if p.Number > 0 {
			where = fmt.Sprintf("partition %d", p.Number)
		}
		if err := f.checkPart(ctx, l, where, p); err != nil {
			return err
		}
	}
	return nil
}

func (f *File) checkPart(ctx context.Context, l *finding.List, where string, p *disk.Part) error {
	var all *finding.List
	var err error
	switch p.Format {
	case disk.Ext:
		var s *ext4.FS
		if s, err = ext4.Open(p.Reader(), p.Size); err == nil {
			all, err = s.Check(ctx)
		}
	case disk.FAT:
		var s *fat.FS
		if s, err = fat.Open(p.Reader(), p.Size); err == nil {
			all, err = s.Check(ctx)
		}
	default:
		if where == "" { // the image has nothing else
			l.Problem(string(p.Format), "it is nothing that can be looked at")
			return nil
		}
		if p.Type == "bios-boot" || p.Type == "extended" { // which hold no format, or other partitions
			return nil
		}
		l.Note(where, "what is in it was not looked at: %s", p.Format)
		return ctx.Err()
	}
	return f.add(ctx, l, where, all, err)
}

// checkFiles reads all files of an archive, whose headers were read already.
func (f *File) checkFiles(ctx context.Context, l *finding.List) error {
	seen := map[*tree.Node]bool{}
	return f.tree.Walk(func(name string, n *tree.Node) error {
		if n.Type() != tree.TypeRegular || seen[n] {
			return nil
		}
		seen[n] = true
		if err := readAll(ctx, n); err != nil {
			l.Problem(fmt.Sprintf("%.400q", name), "%v", err)
		}
		return ctx.Err()
	})
}

func readAll(ctx context.Context, n *tree.Node) error {
	r, err := n.Open()
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = r.Read(buf)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, r.Close())
}
