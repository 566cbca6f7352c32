package rootfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wolffia/internal/lazy"
	"wolffia/internal/tree"
)

// InitrdOptions says how a system finds its root on a disk.
type InitrdOptions struct {
	// Modules is what is loaded, in this order: the absolute paths of modules in
	// ModuleTree, each with options behind it. A machine's identity, laid over
	// the initrd, may bring a list of its own (IdentityConfig.Modules).
	Modules    []string
	ModuleTree *tree.Tree // holds them; may be nil
	// Root is where the root is when the kernel's command line has no root=:
	// LABEL=, UUID=, PARTUUID= or PARTLABEL= something, MAJOR:MINOR, or a device
	// in /dev.
	Root  string
	Type  string        // of the file system; empty lets the kernel find out
	Flags string        // mount options, separated by commas
	Write bool          // mounts it for writing at once; else /init does so later
	Wait  time.Duration // for the disk to appear; 0 means 30 s
	// Panic is when a system without a root restarts; 0 opens a shell instead.
	Panic time.Duration
	Time  time.Time // of everything in it
}

// rootSpecs are the ways to name a root, apart from a device.
var rootSpecs = []string{"LABEL=", "UUID=", "PARTUUID=", "PARTLABEL="}

// deviceNumber is MAJOR:MINOR.
var deviceNumber = lazy.Regexp(`^[0-9]+:[0-9]+$`)

// parameters writes o as words of a kernel's command line.
func (o InitrdOptions) parameters() (string, error) {
	named := slices.ContainsFunc(rootSpecs, func(p string) bool { return strings.HasPrefix(o.Root, p) && o.Root != p })
	if o.Root != "" && !named && !strings.HasPrefix(o.Root, "/dev/") && !deviceNumber().MatchString(o.Root) {
		return "", fmt.Errorf("root %q is none of LABEL=, UUID=, PARTUUID=, PARTLABEL=, MAJOR:MINOR and /dev/", o.Root)
	}
	for _, m := range o.Modules {
		if !moduleRule.MatchString(m) {
			return "", fmt.Errorf("module %q is not an absolute path", m)
		}
	}
	var words []string
	for _, w := range []struct{ key, value string }{{"root=", o.Root}, {"rootfstype=", o.Type}, {"rootflags=", o.Flags}} {
		if strings.ContainsAny(w.value, " \t\n\x00") {
			return "", fmt.Errorf("%s%q: a parameter of the kernel is one word", w.key, w.value)
		}
		if w.value != "" {
			words = append(words, w.key+w.value)
		}
	}
	if o.Write {
		words = append(words, "rw")
	}
	for _, w := range []struct {
		key   string
		value time.Duration
	}{{"rootwait=", o.Wait}, {"panic=", o.Panic}} {
		if w.value != 0 {
			words = append(words, fmt.Sprintf("%s%d", w.key, max(1, int64(w.value/time.Second))))
		}
	}
	return strings.Join(words, " ") + "\n", nil
}

// Initrd makes the small system that finds a root on a disk and goes over to
// it: busybox and a readable /init, see files/initrd. base is a tree with a
// busybox that needs no libraries; no other file of it is used. With
// [Identity] laid over it, as a second archive, it makes a machine of a system
// that [Build] made, without writing anything of the identity on the disk.
func Initrd(base *tree.Tree, o InitrdOptions) (*tree.Tree, error) {
	where, commands, err := Applets(base)
	if err != nil {
		return nil, fmt.Errorf("make initrd: %w", err)
	}
	busybox := base.Get(where)
	if obj, err := readNode(busybox); err == nil && obj.interp != "" {
		return nil, fmt.Errorf("make initrd: %w", &Error{
			Part: "package", Name: "busybox-static", Err: errors.New("is needed: the busybox that there is needs libraries"),
		})
	}
	parameters, err := o.parameters()
	if err != nil {
		return nil, fmt.Errorf("make initrd: %w", err)
	}
	t := tree.New()
	put := func(name string, n *tree.Node) {
		if err == nil {
			err = t.Put(name, n)
		}
	}
	for _, dir := range []string{"/usr/bin", "/usr/lib", "/dev", "/proc", "/sys", "/sysroot", "/etc/wolffia", "/run"} {
		if err := t.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make initrd: %w", err)
		}
	}
	for _, name := range []string{"bin", "sbin", "lib"} {
		target := "usr/" + name
		if name == "sbin" {
			target = "usr/bin"
		}
		put("/"+name, tree.Symlink(target))
	}
	put("/usr/bin/busybox", tree.File(0o755, busybox.Content))
	for _, name := range commands {
		if slices.Contains(unwanted, name) {
			continue
		}
		put("/usr/bin/"+name, tree.Symlink("busybox"))
	}
	put("/dev/console", tree.Device(tree.TypeChar, 0o600, 5, 1))
	put("/dev/null", tree.Device(tree.TypeChar, 0o666, 1, 3))
	put("/init", tree.File(0o755, tree.Bytes(embedded("initrd"))))
	put("/etc/wolffia/root", tree.File(0o644, tree.Bytes(parameters)))
	put("/etc/wolffia/modules", tree.File(0o644, tree.Bytes(lines(o.Modules))))
	if err != nil {
		return nil, fmt.Errorf("make initrd: %w", err)
	}
	if o.ModuleTree != nil {
		if err := t.Merge(o.ModuleTree); err != nil {
			return nil, fmt.Errorf("add modules to initrd: %w", err)
		}
	}
	clamp(t, o.Time)
	return t, nil
}
