package rootfs

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"wolffia/internal/lazy"
	"wolffia/internal/tree"
)

// A system that was not made of packages here, but comes from elsewhere, may
// have another C library, another busybox, or none at all. So what wolffia needs
// in it lies apart, out of the way of what is there: busybox with links for all
// of its commands, and dropbear with a loader and libraries of its own.
const (
	toolsDir = "/usr/lib/wolffia/bin"
	toolsLib = "/usr/lib/wolffia/lib"
)

// ToolPackages are what Recipe.Tools has to be made of.
var ToolPackages = []string{"busybox-static", "dropbear-bin"}

// normalPath is where programs are looked for, for people and services.
const normalPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tools places the tools. Dropbear is started by way of its loader, so that
// neither the base's libraries nor its ld.so.cache are looked at.
func (b *builder) tools() error {
	if b.Tools == nil {
		return nil
	}
	wanted, err := PackageFiles(b.Tools, ToolPackages)
	if err != nil {
		return err
	}
	t, _, err := Prune(b.Tools, wanted)
	if err != nil {
		return fmt.Errorf("find the tools: %w", err)
	}
	if err := b.busybox(t); err != nil {
		return err
	}
	if err := b.dropbear(t); err != nil {
		return err
	}
	// What inittab and other people's scripts count on, whatever the base is.
	for _, name := range []string{"/bin/sh", "/bin/mount", "/bin/umount", "/bin/login", "/sbin/init", "/usr/sbin/dropbear"} {
		if b.has(name) {
			continue
		}
		if err := b.put(name, tree.Symlink(path.Join(toolsDir, path.Base(name)))); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) busybox(t *tree.Tree) error {
	where, names, err := Applets(t)
	if err != nil {
		return err
	}
	if err := b.put(toolsDir+"/busybox", tree.File(0o755, t.Get(where).Content)); err != nil {
		return err
	}
	for _, name := range names {
		target := "busybox"
		switch {
		case slices.Contains(quick, name):
			target = "../poweroff"
		case slices.Contains(unwanted, name):
			continue
		}
		if err := b.put(path.Join(toolsDir, name), tree.Symlink(target)); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) dropbear(t *tree.Tree) error {
	_, program, err := t.Resolve("/usr/sbin/dropbear")
	if err != nil {
		return &Error{Part: "package", Name: "dropbear-bin", Err: err}
	}
	o, err := readNode(program)
	if err != nil {
		return &Error{Part: "package", Name: "dropbear-bin", Err: err}
	}
	_, loader, err := t.Resolve(o.interp)
	if err != nil {
		return &Error{Part: "package", Name: "dropbear-bin", Err: fmt.Errorf("dynamic loader: %w", err)}
	}
	files := map[string]*tree.Node{"dropbear": program, "ld.so": loader}
	err = t.Walk(func(name string, n *tree.Node) error {
		base := path.Base(name)
		if n.IsDir() || !strings.HasPrefix(base, "lib") || !strings.Contains(base, ".so") {
			return nil
		}
		if _, n, err = t.Resolve(name); err == nil && n.Type() == tree.TypeRegular {
			files[base] = n
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, n := range files {
		if err := b.put(path.Join(toolsLib, name), tree.File(0o755, n.Content)); err != nil {
			return err
		}
	}
	text := "#!" + toolsDir + "/sh\nexec " + toolsLib + "/ld.so --inhibit-cache --library-path " + toolsLib + " " + toolsLib + "/dropbear \"$@\"\n"
	return b.write(toolsDir+"/dropbear", 0o755, text, false)
}

// quick are the commands that files/poweroff stands in for.
var quick = []string{"poweroff", "reboot", "halt"}

// fixed is a program's path in a script.
var fixed = lazy.Regexp(`(^|[\s"'(=])(?:/usr)?/s?bin/([a-z]+)\b`)

// script gives the text of one of the scripts in files/. With tools, it calls
// these, and gives services and sessions the usual PATH.
func (b *builder) script(name string) (string, error) {
	text := embedded(name)
	if b.Tools == nil {
		return text, nil
	}
	head, body, ok := strings.Cut(text, "\n")
	if head == "#!/bin/sh" && ok {
		head = "#!" + toolsDir + "/sh\nexport PATH=" + toolsDir + ":" + normalPath
		if name == "session" {
			head = "#!" + toolsDir + "/sh\nexport PATH=" + normalPath
		}
	}
	var lines []string
	for line := range strings.SplitSeq(body, "\n") {
		switch {
		case strings.HasPrefix(line, "export PATH="):
			continue // it stands in the second line by now
		case !strings.HasPrefix(strings.TrimSpace(line), "#"):
			line = fixed().ReplaceAllString(line, "${1}"+toolsDir+"/${2}")
		}
		lines = append(lines, line)
	}
	text = head + "\n" + strings.Join(lines, "\n")
	if name != "init" {
		return text, nil
	}
	const start = `"$f" start`
	if !strings.Contains(text, start) {
		return "", errors.New("files/init starts services in a new way: see how they get their PATH")
	}
	return strings.Replace(text, start, "PATH="+normalPath+" "+start, 1), nil
}

// place writes one of the scripts into the tree.
func (b *builder) place(to, from string) error {
	text, err := b.script(from)
	if err != nil {
		return err
	}
	return b.write(to, 0o755, text, false)
}
