package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"wolffia/internal/debian/deb"
	"wolffia/internal/spell"
	"wolffia/internal/tree"
)

// Module is one kernel module, ready to be loaded.
type Module struct {
	Name    string   // with underscores: "nf_conntrack"
	Path    string   // below /lib/modules/RELEASE, unpacked: "kernel/net/ipv6/ipv6.ko"
	Depends []string // names of modules that must be loaded before it
	Data    []byte   // the ELF object
}

// UnknownModuleError says that a kernel has no such module.
type UnknownModuleError struct {
	Name    string
	Release string // of the kernel
	Nearest string // the most similar name there is, or ""
}

func (e *UnknownModuleError) Error() string {
	s := fmt.Sprintf("kernel %s has no module %q", e.Release, e.Name)
	if e.Nearest != "" {
		s += fmt.Sprintf("; did you mean %q?", e.Nearest)
	}
	return s
}

// moduleIndex is what is known of a kernel's modules without reading them.
type moduleIndex struct {
	paths    map[string]string   // name → path in the tree
	builtin  map[string]bool     // names of what is part of the kernel
	aliases  map[string][]string // without wildcards, such as net-pf-10
	softdeps map[string]softdep
}

type softdep struct{ pre, post []string }

// moduleName is the kernel's name of the module in file: "nf-log.ko.xz" is
// nf_log. It is "" for other files.
func moduleName(file string) string {
	base := path.Base(file)
	for _, suffix := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if name, ok := strings.CutSuffix(base, suffix); ok {
			return canonical(name)
		}
	}
	return ""
}

// canonical is a module's name as the kernel has it.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func (k *Kernel) modules() (*moduleIndex, error) {
	if k.index != nil {
		return k.index, nil
	}
	x := &moduleIndex{
		paths: map[string]string{}, builtin: map[string]bool{},
		aliases: map[string][]string{}, softdeps: map[string]softdep{},
	}
	err := k.Modules.Walk(func(name string, n *tree.Node) error {
		if m := moduleName(name); m != "" && n.Type() == tree.TypeRegular {
			x.paths[m] = name
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for file, add := range map[string]func(words []string){
		"modules.builtin": func(w []string) { x.builtin[moduleName(w[0])] = true },
		"modules.alias": func(w []string) {
			if len(w) == 3 && w[0] == "alias" && !strings.ContainsAny(w[1], "*?[") {
				x.aliases[w[1]] = append(x.aliases[w[1]], canonical(w[2]))
			}
		},
		"modules.softdep": func(w []string) {
			if len(w) > 2 && w[0] == "softdep" {
				x.softdeps[canonical(w[1])] = parseSoftdep(w[2:])
			}
		},
	} {
		if err := k.eachLine(file, add); err != nil {
			return nil, err
		}
	}
	k.index = x
	return x, nil
}

// eachLine calls f for the words of each line of one of the modules.* files,
// which need not exist.
func (k *Kernel) eachLine(file string, f func([]string)) error {
	b, err := k.Modules.ReadFile("/"+file, maxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s of kernel %s: %w", file, k.Release, err)
	}
	for line := range strings.Lines(string(b)) {
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			f(words)
		}
	}
	return nil
}

// parseSoftdep reads "pre: a b post: c"; words before any label are "pre".
func parseSoftdep(words []string) (s softdep) {
	to := &s.pre
	for _, w := range words {
		switch w {
		case "pre:":
			to = &s.pre
		case "post:":
			to = &s.post
		default:
			*to = append(*to, w)
		}
	}
	return s
}

// Closure gives the modules called names (or by an alias such as net-pf-10)
// and all that they need, in an order in which each can be loaded. What is
// built into the kernel is left out. Soft dependencies that the kernel lacks
// are passed over; any other unknown name is an *[UnknownModuleError].
func (k *Kernel) Closure(names []string) ([]Module, error) {
	x, err := k.modules()
	if err != nil {
		return nil, err
	}
	c := closure{k: k, x: x, state: map[string]int{}}
	for _, name := range sortedUnique(names) {
		if err := c.add(name, false); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

type closure struct {
	k     *Kernel
	x     *moduleIndex
	state map[string]int // by name: 1 being added, 2 added
	out   []Module
}

func (c *closure) add(word string, optional bool) error {
	name := canonical(word)
	switch _, file := c.x.paths[name]; {
	case file:
	case c.x.builtin[name], c.k.Has(strings.ToUpper(name)) == "y": // what can't be a module is in no list
		return nil
	case len(c.x.aliases[word]) > 0:
		for _, m := range c.x.aliases[word] {
			if c.x.paths[m] == "" { // built in, or an alias of an alias, which modprobe does not follow either
				continue
			}
			if err := c.add(m, optional); err != nil {
				return err
			}
		}
		return nil
	case optional:
		return nil
	default:
		return &UnknownModuleError{Name: word, Release: c.k.Release, Nearest: c.nearest(name)}
	}
	if c.state[name] != 0 { // added, or a circle, which only soft dependencies can make
		return nil
	}
	c.state[name] = 1
	m, err := c.k.load(name, c.x.paths[name])
	if err != nil {
		return err
	}
	soft := c.x.softdeps[name]
	for _, d := range soft.pre {
		if err := c.add(d, true); err != nil {
			return err
		}
	}
	for _, d := range m.Depends {
		if err := c.add(d, false); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	m.Depends = slices.DeleteFunc(m.Depends, func(d string) bool { return c.x.paths[d] == "" })
	c.state[name] = 2
	c.out = append(c.out, m)
	for _, d := range soft.post {
		if err := c.add(d, true); err != nil {
			return err
		}
	}
	return nil
}

// nearest is the word that name was probably meant to be: a module, one that
// is built in, or what can't be a module and only the configuration knows.
func (c *closure) nearest(name string) string {
	known := slices.Concat(slices.Sorted(maps.Keys(c.x.paths)), slices.Sorted(maps.Keys(c.x.builtin)))
	for line := range strings.Lines(c.k.Config) {
		if option, ok := strings.CutSuffix(strings.TrimSpace(line), "=y"); ok {
			known = append(known, strings.ToLower(strings.TrimPrefix(option, "CONFIG_")))
		}
	}
	return spell.Nearest(name, known)
}

// load reads a module.
func (k *Kernel) load(name, file string) (Module, error) {
	fail := func(err error) (Module, error) {
		return Module{}, fmt.Errorf("read module %s of kernel %s: %w", file, k.Release, err)
	}
	_, n, err := k.Modules.Resolve(file)
	if err != nil {
		return fail(err)
	}
	r, err := n.Open()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	data, err := unpackModule(file, r)
	if err != nil {
		return fail(err)
	}
	info, err := modinfo(data)
	if err != nil {
		return fail(err)
	}
	m := Module{Name: name, Data: stripDebug(data)}
	m.Path = strings.TrimPrefix(file[:strings.LastIndex(file, ".ko")]+".ko", "/")
	for _, d := range strings.Split(info["depends"], ",") {
		if d != "" {
			m.Depends = append(m.Depends, canonical(d))
		}
	}
	return m, nil
}

// unpackModule undoes the compression that the file's name tells.
func unpackModule(file string, r io.Reader) ([]byte, error) {
	switch path.Ext(file) {
	case ".xz":
		packed, err := io.ReadAll(io.LimitReader(r, maxModule))
		if err != nil {
			return nil, err
		}
		return unpackXZ(bytes.NewReader(packed), int64(len(packed)), maxModule)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxModule), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("more than %d MiB", maxModule>>20)
	}
	return b, err
}

// unpackXZ undoes xz with package deb's decoder, the one that wolffia has.
func unpackXZ(r io.ReaderAt, size, limit int64) ([]byte, error) {
	var out memory
	_, err := deb.DecodeXZ(context.Background(), r, size, &out,
		deb.XZOptions{MaxSize: limit, MaxDict: maxWindow, Workers: 1})
	return out, err
}

// memory is an io.WriterAt for one writer at a time. Who writes bounds it.
type memory []byte

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(*m) {
		*m = append(*m, make([]byte, end-len(*m))...)
	}
	return copy((*m)[off:], p), nil
}

// modinfo reads a module's .modinfo section: NUL-terminated "key=value"
// strings. Of keys that come several times the first is kept.
func modinfo(module []byte) (map[string]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil || f.Type != elf.ET_REL {
		return nil, errors.New("not a kernel module")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for part := range bytes.SplitSeq(b, []byte{0}) {
		key, value, ok := strings.Cut(string(part), "=")
		if _, have := info[key]; ok && !have {
			info[key] = value
		}
	}
	return info, nil
}
