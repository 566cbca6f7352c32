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

	"wolffia/internal/image/xz"
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
	provided map[string]bool     // aliases of what is part of the kernel
	aliases  map[string][]string // modules by alias, without wildcards: net_pf_10
	choosy   map[string]bool     // modules that only some processors load
	softdeps map[string]softdep
	whole    bool // aliases are complete
}

type softdep struct{ pre, post []string }

func (s softdep) and(o softdep) softdep {
	return softdep{slices.Concat(s.pre, o.pre), slices.Concat(s.post, o.post)}
}

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
		paths: map[string]string{}, builtin: map[string]bool{}, provided: map[string]bool{},
		aliases: map[string][]string{}, choosy: map[string]bool{}, softdeps: map[string]softdep{},
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
			if len(w) == 3 && w[0] == "alias" {
				x.addAlias(w[1], canonical(w[2]))
			}
		},
		"modules.softdep": func(w []string) {
			if len(w) > 2 && w[0] == "softdep" {
				x.softdeps[canonical(w[1])] = x.softdeps[canonical(w[1])].and(parseSoftdep(w[2:]))
			}
		},
	} {
		if err := k.eachLine(file, add); err != nil {
			return nil, err
		}
	}
	info, err := k.Modules.ReadFile("/modules.builtin.modinfo", maxText)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read modules.builtin.modinfo of kernel %s: %w", k.Release, err)
	}
	for _, a := range builtinAliases(info) {
		x.provided[canonicalAlias(a.alias)] = true
	}
	k.index = x
	return x, nil
}

func (x *moduleIndex) addAlias(alias, module string) {
	if strings.HasPrefix(alias, "cpu:") {
		x.choosy[module] = true
	}
	if !strings.ContainsAny(alias, "*?[") {
		alias = canonicalAlias(alias)
		x.aliases[alias] = append(x.aliases[alias], module)
	}
}

// readAliases completes the aliases: those of a package without modules.alias
// are in the modules themselves.
func (x *moduleIndex) readAliases(k *Kernel) error {
	if x.whole {
		return nil
	}
	if k.Modules.Get("/modules.alias") == nil {
		all, err := k.Index()
		if err != nil {
			return err
		}
		for _, m := range all.Modules {
			for _, a := range m.Aliases {
				x.addAlias(a, m.Name)
			}
		}
	}
	x.whole = true
	return nil
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
// are passed over, as are names of optional that it has no module for; any
// other unknown name is an *[UnknownModuleError].
func (k *Kernel) Closure(names []string, optional ...string) ([]Module, error) {
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
	for _, name := range sortedUnique(optional) {
		if x.paths[canonical(name)] == "" {
			continue
		}
		if err := c.add(name, true); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

// Without gives those of names, of modules or of options of the configuration,
// that the kernel has neither as a module nor built in. Of a kernel whose
// configuration is not known nothing can be said.
func (k *Kernel) Without(names []string) ([]string, error) {
	x, err := k.modules()
	if err != nil || k.Config == "" {
		return nil, err
	}
	var out []string
	for _, word := range names {
		name := canonical(word)
		if x.paths[name] == "" && !x.builtin[name] && k.Has(strings.ToUpper(name)) != "y" {
			out = append(out, word)
		}
	}
	return out, nil
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
	default:
		return c.addAlias(word, optional)
	}
	if c.state[name] != 0 { // added, or a circle, which only soft dependencies can make
		return nil
	}
	c.state[name] = 1
	m, soft, err := c.k.load(name, c.x.paths[name])
	if err != nil {
		return err
	}
	soft = soft.and(c.x.softdeps[name])
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

// addAlias adds the modules that have an alias.
func (c *closure) addAlias(word string, optional bool) error {
	alias := canonicalAlias(word)
	if c.x.provided[alias] { // by the kernel itself: reading all modules would find more of the same
		return nil
	}
	if optional {
		// An algorithm, as nearly all soft dependencies are: the generic form does
		// on every processor, and is found without reading all modules.
		algorithm := strings.TrimPrefix(canonical(word), "crypto_")
		for _, name := range []string{algorithm, algorithm + "_generic"} {
			if c.x.builtin[name] {
				return nil
			}
			if c.x.paths[name] != "" {
				return c.add(name, true)
			}
		}
	}
	if err := c.x.readAliases(c.k); err != nil {
		return err
	}
	for _, m := range c.x.aliases[alias] {
		// Built in, or an alias of an alias, which modprobe does not follow either;
		// or for some processors only, and something else will do on others.
		if c.x.paths[m] == "" || optional && c.x.choosy[m] {
			continue
		}
		if err := c.add(m, optional); err != nil {
			return err
		}
	}
	if len(c.x.aliases[alias]) == 0 && !optional {
		return &UnknownModuleError{Name: word, Release: c.k.Release, Nearest: c.nearest(canonical(word))}
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

// load reads a module, and the soft dependencies that it has itself.
func (k *Kernel) load(name, file string) (Module, softdep, error) {
	fail := func(err error) (Module, softdep, error) {
		return Module{}, softdep{}, fmt.Errorf("read module %s of kernel %s: %w", file, k.Release, err)
	}
	data, err := k.unpack(file)
	if err != nil {
		return fail(err)
	}
	info, err := modinfo(data)
	if err != nil {
		return fail(err)
	}
	if magic := strings.Fields(strings.Join(info["vermagic"], " ")); k.rebuilt && len(magic) > 0 && magic[0] != k.Release {
		return Module{}, softdep{}, &StaleModuleError{Module: strings.TrimPrefix(file, "/kernel/"), Built: magic[0], Want: k.Release}
	}
	m := Module{Name: name, Path: strings.TrimPrefix(unpackedName(file), "/"), Depends: depends(info), Data: stripDebug(data)}
	var soft softdep
	for _, s := range info["softdep"] {
		soft = soft.and(parseSoftdep(strings.Fields(s)))
	}
	return m, soft, nil
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

// unpackXZ undoes xz into memory.
func unpackXZ(r io.ReaderAt, size, limit int64) ([]byte, error) {
	var out memory
	_, err := xz.Decode(context.Background(), r, size, &out,
		xz.Options{MaxSize: limit, MaxDict: maxWindow, Workers: 1})
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
// strings, of which keys may come several times.
func modinfo(module []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil || f.Type != elf.ET_REL || s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_COMPRESSED != 0 {
		return nil, errors.New("not a kernel module")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	info := map[string][]string{}
	for part := range bytes.SplitSeq(b, []byte{0}) {
		if key, value, ok := strings.Cut(string(part), "="); ok {
			info[key] = append(info[key], value)
		}
	}
	return info, nil
}
