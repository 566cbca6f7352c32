package lab

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"wolffia/internal/rootfs"
)

// shape is a JSON schema fragment.
type shape map[string]any

func textShape(example string) shape { return shape{"type": "string", "examples": []string{example}} }
func scalarShape(example string) shape {
	return shape{"type": []string{"string", "integer"}, "examples": []string{example}}
}
func boolShape() shape             { return shape{"type": "boolean"} }
func intShape(low, high int) shape { return shape{"type": "integer", "minimum": low, "maximum": high} }
func wordShape(valid ...string) shape {
	return shape{"type": "string", "enum": valid}
}
func listShape(of shape) shape { return shape{"type": "array", "items": of} }

// The tables below are the file format: parser, schema and manual are made
// from them. what is how errors call a value.

func specKeys() []key[Spec] {
	return []key[Spec]{
		{"name", "The lab's name, which the machines' hardware addresses depend on; lab if absent.", textShape("pair"),
			func(d *decoder, n ast.Node, s *Spec) { d.name(n, "name", &s.Name) }},
		{"mirror", "The Debian mirror; the host's own if absent.", textShape("http://mirror.example/debian"),
			func(d *decoder, n ast.Node, s *Spec) { d.set(n, "mirror", &s.Mirror) }},
		{"keyring", "A file with further OpenPGP keys that may sign the archive.", textShape("./archive.gpg"),
			func(d *decoder, n ast.Node, s *Spec) { d.set(n, "keyring", &s.Keyring) }},
		{"images", "File trees by name.", namedShape(imageKeys()),
			func(d *decoder, n ast.Node, s *Spec) {
				named(d, n, "image", newImage, imageKeys(), s.Images)
			}},
		{"networks", "Virtual networks by name.", namedShape(networkKeys()),
			func(d *decoder, n ast.Node, s *Spec) {
				named(d, n, "network", newNetwork, networkKeys(), s.Networks)
			}},
		{"machines", "Machines by name.", namedShape(machineKeys()),
			func(d *decoder, n ast.Node, s *Spec) {
				named(d, n, "machine", newMachine, machineKeys(), s.Machines)
			}},
	}
}

func imageKeys() []key[Image] {
	return []key[Image]{
		{"from", "What it starts from: another image of this file, whose keys count here too; an image of a registry, such as debian:trixie; or, with ./ before it, a folder, a tar archive, a file system, a disk, or an OCI image.",
			textShape("debian:trixie"),
			func(d *decoder, n ast.Node, i *Image) { parsed(d, n, "from", ParseBase, &i.From) }},
		{"release", "Debian release, by code name or suite.", textShape(DefaultRelease),
			func(d *decoder, n ast.Node, i *Image) {
				parsed(d, n, "release", parseRelease, &i.Release)
				i.Guess = false
			}},
		{"arch", "Debian's name of the architecture; the host's if absent.", wordShape(Arches()...),
			func(d *decoder, n ast.Node, i *Image) { choice(d, n, "arch", Arches(), &i.Arch) }},
		{"packages", "Debian packages: NAME, NAME=VERSION or NAME:ARCH.", listShape(textShape("busybox-static")),
			func(d *decoder, n ast.Node, i *Image) { i.Packages = d.texts(n, "packages") }},
		{"deps", "What is kept of packages that others need: all (packages), or the shared libraries that programs need (elf).",
			wordShape(DepsWords()...),
			func(d *decoder, n ast.Node, i *Image) {
				choice(d, n, "deps", DepsWords(), &i.Deps)
			}},
		{"files", "Files laid over the packages, in order.", listShape(objectShape(fileKeys())),
			func(d *decoder, n ast.Node, i *Image) { i.Files = d.files(n) }},
		{"users", "Accounts, further ones or changes to root.", listShape(objectShape(userKeys())),
			func(d *decoder, n ast.Node, i *Image) { i.Users = d.users(n) }},
		{"groups", "Further groups.", listShape(objectShape(groupKeys())),
			func(d *decoder, n ast.Node, i *Image) { i.Groups = d.groups(n) }},
		{"services", "Services started at boot, in order.", listShape(textShape("dropbear")),
			func(d *decoder, n ast.Node, i *Image) { i.Services = d.texts(n, "services") }},
		{"init", "What keeps the system going: busybox's init with /etc/inittab (busybox), or a single readable script (script).",
			wordShape(InitWords()...),
			func(d *decoder, n ast.Node, i *Image) { choice(d, n, "init", InitWords(), &i.Init) }},
		{"hostname", "Name in /etc/hostname; a machine's own name goes before it.", textShape("alice"),
			func(d *decoder, n ast.Node, i *Image) { d.name(n, "hostname", &i.Hostname) }},
		{"size", "How large it is as a file system or a disk; as large as its files and 64M if absent.", scalarShape("256M"),
			func(d *decoder, n ast.Node, i *Image) { parsed(d, n, "size", ParseDiskSize, &i.Size) }},
		{"kernel", "The kernel of a disk that boots by itself: generic (the default), with the drivers of PCs and boards but those for sound, cameras, radio and large graphics; cloud, a smaller one for virtual machines; one of Debian's own names, such as amd64, with all of its drivers; or, with ./ before it, a kernel or a kernel build of your own.",
			textShape("cloud"),
			func(d *decoder, n ast.Node, i *Image) { d.set(n, "kernel", &i.Kernel) }},
	}
}

func fileKeys() []key[rootfs.File] {
	return []key[rootfs.File]{
		{"path", "Where it goes in the image.", textShape("/etc/motd"),
			func(d *decoder, n ast.Node, f *rootfs.File) { parsed(d, n, "path", parsePath, &f.Path) }},
		{"to", "The same as path, for what comes from the host.", textShape("/"),
			func(d *decoder, n ast.Node, f *rootfs.File) { parsed(d, n, "to", parsePath, &f.Path) }},
		{"from", "A file or folder on the host, relative to this file.", textShape("./overlay"),
			func(d *decoder, n ast.Node, f *rootfs.File) { d.set(n, "from", &f.From) }},
		{"libraries", "With from: bring the shared libraries it needs, too.", boolShape(),
			func(d *decoder, n ast.Node, f *rootfs.File) { d.flag(n, "libraries", &f.Libraries) }},
		{"content", "The file's text.", shape{"type": "string"},
			func(d *decoder, n ast.Node, f *rootfs.File) { d.set(n, "content", &f.Content) }},
		{"link", "Makes a symbolic link with this target.", textShape("/usr/bin/vim"),
			func(d *decoder, n ast.Node, f *rootfs.File) { d.set(n, "link", &f.Link) }},
		{"directory", "Makes a folder.", boolShape(),
			func(d *decoder, n ast.Node, f *rootfs.File) { d.flag(n, "directory", &f.Directory) }},
		{"mode", "Permission bits in octal.", scalarShape("0755"),
			func(d *decoder, n ast.Node, f *rootfs.File) { parsed(d, n, "mode", parseMode, &f.Mode) }},
		{"owner", "User, by name or number.", scalarShape("root"),
			func(d *decoder, n ast.Node, f *rootfs.File) { d.set(n, "owner", &f.Owner) }},
		{"group", "Group, by name or number.", scalarShape("root"),
			func(d *decoder, n ast.Node, f *rootfs.File) { d.set(n, "group", &f.Group) }},
	}
}

func userKeys() []key[rootfs.User] {
	return []key[rootfs.User]{
		{"name", "The login name.", textShape("alice"),
			func(d *decoder, n ast.Node, u *rootfs.User) { d.set(n, "name", &u.Name) }},
		{"uid", "The number; the next free one if absent.", intShape(1, 65533),
			func(d *decoder, n ast.Node, u *rootfs.User) { d.id(n, "uid", &u.UID) }},
		{"group", "The main group; one of the user's own if absent.", textShape("users"),
			func(d *decoder, n ast.Node, u *rootfs.User) { d.set(n, "group", &u.Group) }},
		{"groups", "Further groups.", listShape(textShape("audio")),
			func(d *decoder, n ast.Node, u *rootfs.User) { u.Groups = d.texts(n, "groups") }},
		{"home", "The home folder.", textShape("/home/alice"),
			func(d *decoder, n ast.Node, u *rootfs.User) { parsed(d, n, "home", parsePath, &u.Home) }},
		{"shell", "The login shell.", textShape("/bin/sh"),
			func(d *decoder, n ast.Node, u *rootfs.User) { parsed(d, n, "shell", parsePath, &u.Shell) }},
		{"password", "A crypt(3) hash, as mkpasswd prints; no password works if absent.", textShape("$6$..."),
			func(d *decoder, n ast.Node, u *rootfs.User) { parsed(d, n, "password", parseHash, &u.Hash) }},
		{"keys", "Lines for authorized_keys.", listShape(textShape("ssh-ed25519 AAAA...")),
			func(d *decoder, n ast.Node, u *rootfs.User) { u.Keys = d.publicKeys(n) }},
	}
}

func groupKeys() []key[rootfs.Group] {
	return []key[rootfs.Group]{
		{"name", "The group's name.", textShape("wheel"),
			func(d *decoder, n ast.Node, g *rootfs.Group) { d.set(n, "name", &g.Name) }},
		{"gid", "The number; the next free one if absent.", intShape(1, 65533),
			func(d *decoder, n ast.Node, g *rootfs.Group) { d.id(n, "gid", &g.GID) }},
	}
}

func machineKeys() []key[Machine] {
	return append([]key[Machine]{
		{"image", "The image it starts from; may be left out when there is only one.", textShape("base"),
			func(d *decoder, n ast.Node, m *Machine) { d.set(n, "image", &m.Image) }},
		{"backend", "What runs it.", wordShape(Backends()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "backend", Backends(), &m.Backend) }},
		{"arch", "Architecture; the image's if absent.", wordShape(Arches()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "arch", Arches(), &m.Arch) }},
		{"memory", "RAM; if absent 128M, or what a larger root in memory takes.", scalarShape("128M"),
			func(d *decoder, n ast.Node, m *Machine) {
				parsed(d, n, "memory", ParseMemory, &m.Memory)
				m.OwnMemory = true
			}},
		{"type", "The kind of PC that QEMU makes of an amd64 machine.", wordShape(Types()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "type", Types(), &m.Type) }},
		{"boot", "What finds the kernel: wolffia, or firmware on the machine's disk, which is complete then.", wordShape(Boots()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "boot", Boots(), &m.Boot) }},
		{"root", "Where the root file system lives: in memory, or on a disk, of which a throwaway machine writes to a copy.", wordShape(Roots()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "root", Roots(), &m.Root) }},
		{"console", "What is on its console: a shell for root, or a login prompt, for users who have a password.", wordShape(Consoles()...),
			func(d *decoder, n ast.Node, m *Machine) { choice(d, n, "console", Consoles(), &m.Console) }},
		{"networks", "The networks it is on, in the order of its cards: their names, or objects that say more.",
			listShape(shape{"oneOf": []shape{textShape("lan"), objectShape(cardKeys())}}),
			func(d *decoder, n ast.Node, m *Machine) { m.Cards = d.cards(n) }},
		{"forwards", "Ports of the host that lead into the machine: [ADDRESS:]HOSTPORT:PORT[/udp].",
			listShape(textShape("127.0.0.1:5522:22")),
			func(d *decoder, n ast.Node, m *Machine) {
				for _, item := range d.sequence(n, "forwards") {
					var f Forward
					before := len(d.errs)
					if parsed(d, item, "forward", ParseForward, &f); len(d.errs) == before {
						m.Forwards = append(m.Forwards, f)
					}
				}
			}},
		{"kernel", "A kernel of your own; Debian's if absent.", textShape("./linux"),
			func(d *decoder, n ast.Node, m *Machine) { d.set(n, "kernel", &m.Kernel) }},
		{"cmdline", "Further kernel parameters.", listShape(textShape("loglevel=7")),
			func(d *decoder, n ast.Node, m *Machine) { m.Cmdline = d.texts(n, "cmdline") }},
		{"modules", "Further kernel modules, loaded at boot with what they need.", listShape(textShape("dummy")),
			func(d *decoder, n ast.Node, m *Machine) { m.Modules = d.texts(n, "modules") }},
	}, lifeKeys()...)
}

func (d *decoder) set(n ast.Node, what string, to *string) {
	if s, ok := d.text(n, what); ok {
		*to = s
	}
}

func (d *decoder) flag(n ast.Node, what string, to *bool) {
	if v, ok := d.boolean(n, what); ok {
		*to = v
	}
}

func (d *decoder) number(n ast.Node, what string, low, high int, to *int) {
	if v, ok := d.integer(n, what, low, high); ok {
		*to = v
	}
}

func (d *decoder) id(n ast.Node, what string, to *uint32) {
	if v, ok := d.integer(n, what, 1, 65533); ok {
		*to = uint32(v)
	}
}

func (d *decoder) name(n ast.Node, what string, to *string) {
	s, ok := d.text(n, what)
	if !ok {
		return
	}
	if err := checkName(what, s); err != nil {
		d.fail(n, "%s", err)
		return
	}
	*to = s
}

// named reads a mapping from names to objects.
func named[T any](d *decoder, n ast.Node, what string, fresh func(string) *T, keys []key[T], to map[string]*T) {
	for _, e := range d.mapping(n, what+"s") {
		if err := checkName(what, e.name); err != nil {
			d.fail(e.key, "%s", err)
			continue
		}
		v := fresh(e.name)
		object(d, e.value, fmt.Sprintf("%s %q", what, e.name), keys, v)
		to[e.name] = v
	}
}

func (d *decoder) files(n ast.Node) (out []rootfs.File) {
	for _, item := range d.sequence(n, "files") {
		var f rootfs.File
		object(d, item, "a file", fileKeys(), &f)
		kinds := 0
		for _, e := range d.mapping(item, "a file") {
			switch e.name {
			case "from", "content", "link", "directory":
				kinds++
			}
		}
		switch {
		case f.Path == "":
			d.fail(item, "a file needs a path (or, with from, a to)")
		case kinds != 1:
			d.fail(item, "file %s needs exactly one of from, content, link and directory", f.Path)
		case f.Libraries && f.From == "":
			d.fail(item, "file %s: libraries go with from", f.Path)
		}
		out = append(out, f)
	}
	return out
}

func (d *decoder) users(n ast.Node) (out []rootfs.User) {
	for _, item := range d.sequence(n, "users") {
		var u rootfs.User
		object(d, item, "a user", userKeys(), &u)
		if !validAccount(u.Name) {
			d.fail(item, "user name %q must be 1 to 32 lower-case letters, digits, dashes and underscores, a letter first", u.Name)
		}
		for _, k := range u.Keys {
			if strings.ContainsAny(k, "\n\r\x00") {
				d.fail(item, "user %s: a key is one line", u.Name)
			}
		}
		out = append(out, u)
	}
	return out
}

func (d *decoder) groups(n ast.Node) (out []rootfs.Group) {
	for _, item := range d.sequence(n, "groups") {
		var g rootfs.Group
		object(d, item, "a group", groupKeys(), &g)
		if !validAccount(g.Name) {
			d.fail(item, "group name %q must be 1 to 32 lower-case letters, digits, dashes and underscores, a letter first", g.Name)
		}
		out = append(out, g)
	}
	return out
}
