package debian

import (
	"crypto/md5"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"wolffia/internal/debian/control"
	"wolffia/internal/tree"
)

// dpkg's database, as dpkg(1) leaves it: scanners and dpkg itself then know what
// is there. Packages count as installed although their scripts did not run:
// nothing would ever configure them otherwise.
const (
	dpkgDir  = "/var/lib/dpkg"
	infoFile = "1\n" // /var/lib/dpkg/info/format: names may have an architecture
)

// writeDatabase adds /var/lib/dpkg to the tree.
func (u *Unpacked) writeDatabase(lock *Lock) error {
	for _, dir := range []string{"info", "updates", "triggers", "parts", "alternatives"} {
		if err := u.Tree.MkdirAll(path.Join(dpkgDir, dir), 0o755); err != nil {
			return fmt.Errorf("write dpkg's database: %w", err)
		}
	}
	put := func(name, text string) error {
		n := tree.File(0o644, tree.Bytes(text))
		n.ModTime = lock.Date
		if err := u.Tree.Put(path.Join(dpkgDir, name), n); err != nil {
			return fmt.Errorf("write dpkg's database: %w", err)
		}
		return nil
	}
	sorted := slices.Clone(u.pkgs)
	slices.SortFunc(sorted, func(a, b *pkg) int { return strings.Compare(a.pin.String(), b.pin.String()) })
	var status strings.Builder
	archs := []string{lock.Request.Arch}
	for _, p := range sorted {
		text, err := p.status()
		if err != nil {
			return fmt.Errorf("write dpkg's database: package %s: %w", p.pin, err)
		}
		status.WriteString(text + "\n")
		if p.pin.Arch != "all" && !slices.Contains(archs, p.pin.Arch) {
			archs = append(archs, p.pin.Arch)
		}
		for end, text := range p.infoFiles() {
			if err := put("info/"+p.infoName()+"."+end, text); err != nil {
				return err
			}
		}
	}
	files := map[string]string{"status": status.String(), "info/format": infoFile}
	if len(archs) > 1 {
		files["arch"] = lines(archs)
	}
	for name, text := range files {
		if err := put(name, text); err != nil {
			return err
		}
	}
	return nil
}

// status is the package's paragraph in dpkg's status file.
func (p *pkg) status() (string, error) {
	src := p.control.Paragraph
	out := control.Paragraph{}
	for _, f := range src.Fields {
		out.Fields = append(out.Fields, f)
		if strings.EqualFold(f.Name, "Package") {
			out.Fields = append(out.Fields, control.Field{Name: "Status", Value: "install ok installed"})
		}
	}
	var conffiles strings.Builder
	for _, name := range p.control.Conffiles() {
		sum, err := p.md5(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&conffiles, "\n %s %s", name, sum)
	}
	if conffiles.Len() > 0 {
		out.Set("Conffiles", conffiles.String())
	}
	return out.String(), nil
}

// md5 is the digest by which dpkg sees whether a configuration file was changed.
func (p *pkg) md5(name string) (string, error) {
	n := p.tree.Get(name)
	if n == nil || n.Type() != tree.TypeRegular {
		return "newconffile", nil // as dpkg writes of one that isn't there yet
	}
	r, err := n.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := md5.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// infoName is how the package's files in info/ are called: packages that can
// be there for several architectures have theirs in the name.
func (p *pkg) infoName() string {
	if p.control.Paragraph.Get("Multi-Arch") == "same" {
		return p.pin.Name + ":" + p.pin.Arch
	}
	return p.pin.Name
}

// infoFiles are the files in info/ by the ends of their names.
func (p *pkg) infoFiles() map[string]string {
	list := []string{"/."}
	p.tree.Walk(func(name string, _ *tree.Node) error {
		if name != "/" {
			list = append(list, name)
		}
		return nil
	})
	files := map[string]string{"list": lines(list)}
	for _, name := range []string{"md5sums", "conffiles", "shlibs", "symbols"} {
		if text, ok := p.control.Files[name]; ok {
			files[name] = string(text)
		}
	}
	return files
}
