package kernel

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"wolffia/internal/tree"
)

// ModuleInfo is what a kernel module says of itself, as depmod(8) reads it.
type ModuleInfo struct {
	Name     string   `json:"name"`              // with underscores
	File     string   `json:"file"`              // below /lib/modules/RELEASE, as it is: "kernel/fs/fat/fat.ko.xz"
	Size     int64    `json:"size"`              // bytes as [Module.Data]
	Depends  []string `json:"depends,omitempty"` // names of what must be loaded before it
	Aliases  []string `json:"aliases,omitempty"` // patterns for which it is loaded
	Softdeps []string `json:"softdeps,omitempty"`
	Weakdeps []string `json:"weakdeps,omitempty"`
	Symbols  []string `json:"symbols,omitempty"` // that it exports
}

// Path is where the module lies when it is unpacked.
func (m *ModuleInfo) Path() string { return unpackedName(m.File) }

// unpackedName takes the suffix of a compression off a module's file name.
func unpackedName(file string) string { return file[:strings.LastIndex(file, ".ko")] + ".ko" }

// ModuleIndex is what depmod knows: all modules of a kernel, in the order in
// which the kernel's build lists them. It is plain data, to be kept as JSON.
type ModuleIndex struct {
	Modules []ModuleInfo `json:"modules"`
}

// KeepIndex lets another make the index when it is first needed: keep calls
// scan, which reads all modules, or gives what scan gave for the same kernel
// before.
func (k *Kernel) KeepIndex(keep func(scan func() (*ModuleIndex, error)) (*ModuleIndex, error)) {
	k.keep = keep
}

// Index describes all modules. They are read on all cores, some hundred a
// second on each when they are compressed.
func (k *Kernel) Index() (*ModuleIndex, error) {
	if k.all != nil {
		return k.all, nil
	}
	index := k.scan
	if k.keep != nil {
		index = func() (*ModuleIndex, error) { return k.keep(k.scan) }
	}
	all, err := index()
	if err != nil {
		return nil, err
	}
	k.all = all
	return all, nil
}

func (k *Kernel) scan() (*ModuleIndex, error) {
	x, err := k.modules()
	if err != nil {
		return nil, err
	}
	rank, err := k.buildOrder()
	if err != nil {
		return nil, err
	}
	all := make([]ModuleInfo, 0, len(x.paths))
	for name, file := range x.paths {
		all = append(all, ModuleInfo{Name: name, File: strings.TrimPrefix(file, "/")})
	}
	slices.SortFunc(all, func(a, b ModuleInfo) int {
		return cmp.Or(cmp.Compare(rank(a.Path()), rank(b.Path())), cmp.Compare(a.File, b.File))
	})
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range all {
		g.Go(func() error { return k.describe(&all[i]) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &ModuleIndex{Modules: all}, nil
}

// buildOrder gives the place of a module in modules.order; what is not there
// comes last.
func (k *Kernel) buildOrder() (func(path string) int, error) {
	rank := map[string]int{}
	err := k.eachLine("modules.order", func(w []string) {
		if _, twice := rank[w[0]]; !twice {
			rank[w[0]] = len(rank)
		}
	})
	return func(path string) int {
		if at, ok := rank[path]; ok {
			return at
		}
		return len(rank)
	}, err
}

// describe fills in what the module itself says.
func (k *Kernel) describe(m *ModuleInfo) error {
	fail := func(err error) error { return fmt.Errorf("read module %s of kernel %s: %w", m.File, k.Release, err) }
	data, err := k.unpack("/" + m.File)
	if err != nil {
		return fail(err)
	}
	info, err := modinfo(data)
	if err != nil {
		return fail(err)
	}
	m.Size = int64(len(stripDebug(data)))
	m.Depends = depends(info)
	m.Aliases, m.Softdeps, m.Weakdeps = info["alias"], info["softdep"], info["weakdep"]
	if m.Symbols, err = exports(data); err != nil {
		return fail(err)
	}
	return nil
}

// depends lists the modules that a module's depends= names.
func depends(info map[string][]string) (out []string) {
	for _, list := range info["depends"] {
		for d := range strings.SplitSeq(list, ",") {
			if d != "" {
				out = append(out, canonical(d))
			}
		}
	}
	return out
}

// exports lists the symbols that a module has for others: those of which the
// symbol table has an entry of the kernel's own table (EXPORT_SYMBOL).
func exports(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	if s := f.SectionByType(elf.SHT_SYMTAB); s == nil || s.Flags&elf.SHF_COMPRESSED != 0 ||
		int(s.Link) >= len(f.Sections) || f.Sections[s.Link].Flags&elf.SHF_COMPRESSED != 0 {
		return nil, nil
	}
	symbols, err := f.Symbols()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range symbols {
		if name, ok := strings.CutPrefix(s.Name, "__ksymtab_"); ok && s.Section != elf.SHN_UNDEF {
			out = append(out, name)
		}
	}
	return out, nil
}

// Keep leaves in the index what is needed to load the modules called names,
// which are names of modules in it.
func (x *ModuleIndex) Keep(names []string) *ModuleIndex {
	by := x.byName()
	keep := map[string]bool{}
	for todo := slices.Clone(names); len(todo) > 0; todo = todo[1:] {
		m := by[todo[0]]
		if m == nil || keep[m.Name] {
			continue
		}
		keep[m.Name] = true
		todo = append(todo, m.Depends...)
	}
	out := &ModuleIndex{}
	for _, m := range x.Modules {
		if keep[m.Name] {
			out.Modules = append(out.Modules, m)
		}
	}
	return out
}

func (x *ModuleIndex) byName() map[string]*ModuleInfo {
	by := make(map[string]*ModuleInfo, len(x.Modules))
	for i := range x.Modules {
		by[x.Modules[i].Name] = &x.Modules[i]
	}
	return by
}

// Files gives the files that depmod(8) makes of unpacked modules, by name:
// modules.dep, modules.alias, modules.symbols, modules.softdep, modules.weakdep
// and modules.devname, and the .bin forms that kmod's modprobe reads. builtin
// and builtinInfo are the kernel's modules.builtin and modules.builtin.modinfo.
func (x *ModuleIndex) Files(builtin, builtinInfo []byte) (map[string][]byte, error) {
	dep, err := x.dependencies()
	if err != nil {
		return nil, err
	}
	out := map[string]*bytes.Buffer{}
	tries := map[string]*trie{"modules.dep.bin": {}, "modules.alias.bin": {}, "modules.symbols.bin": {}, "modules.builtin.bin": {}, "modules.builtin.alias.bin": {}}
	for _, name := range []string{"modules.dep", "modules.alias", "modules.symbols", "modules.softdep", "modules.weakdep", "modules.devname"} {
		out[name] = &bytes.Buffer{}
	}
	for i, m := range x.Modules {
		line := m.Path() + ":"
		for _, d := range dep[m.Name] {
			line += " " + d.Path()
		}
		fmt.Fprintln(out["modules.dep"], line)
		tries["modules.dep.bin"].add(m.Name, line, i)
		for _, a := range m.Aliases {
			fmt.Fprintf(out["modules.alias"], "alias %s %s\n", a, m.Name)
			tries["modules.alias.bin"].add(canonicalAlias(a), m.Name, i)
		}
		for _, s := range m.Symbols {
			fmt.Fprintf(out["modules.symbols"], "alias symbol:%s %s\n", s, m.Name)
			tries["modules.symbols.bin"].add("symbol:"+s, m.Name, i)
		}
		for _, s := range m.Softdeps {
			fmt.Fprintf(out["modules.softdep"], "softdep %s %s\n", m.Name, s)
		}
		for _, s := range m.Weakdeps {
			fmt.Fprintf(out["modules.weakdep"], "weakdep %s %s\n", m.Name, s)
		}
		if d := m.device(); d != "" {
			fmt.Fprintln(out["modules.devname"], m.Name, d)
		}
	}
	for line := range strings.Lines(string(builtin)) {
		if name := moduleName(strings.TrimSpace(line)); name != "" {
			tries["modules.builtin.bin"].add(name, "", 0)
		}
	}
	for _, a := range builtinAliases(builtinInfo) {
		tries["modules.builtin.alias.bin"].add(canonicalAlias(a.alias), a.module, 0)
	}
	files := map[string][]byte{}
	for name, b := range out {
		files[name] = b.Bytes()
	}
	for name, t := range tries {
		files[name] = t.bytes()
	}
	return files, nil
}

// errCircle says that modules need each other.
var errCircle = errors.New("modules depend on each other in a circle")

// dependencies lists for each module all that it needs, in the order of
// modules.dep: modprobe loads a line from its end.
func (x *ModuleIndex) dependencies() (map[string][]*ModuleInfo, error) {
	by := x.byName()
	order := map[string]int{} // place in an order in which all can be loaded; 0 while being visited
	var visit func(m *ModuleInfo, depth int) error
	visit = func(m *ModuleInfo, depth int) error {
		at, seen := order[m.Name]
		if seen {
			if at == 0 {
				return fmt.Errorf("%w: %s", errCircle, m.Name)
			}
			return nil
		}
		order[m.Name] = 0
		for _, d := range m.Depends {
			if need := by[d]; need != nil && depth < len(x.Modules) {
				if err := visit(need, depth+1); err != nil {
					return err
				}
			}
		}
		order[m.Name] = len(order)
		return nil
	}
	out := map[string][]*ModuleInfo{}
	for i := range x.Modules {
		m := &x.Modules[i]
		if err := visit(m, 0); err != nil {
			return nil, err
		}
		var all []*ModuleInfo
		for todo := slices.Clone(m.Depends); len(todo) > 0; todo = todo[1:] {
			if need := by[todo[0]]; need != nil && !slices.Contains(all, need) {
				all = append(all, need)
				todo = append(todo, need.Depends...)
			}
		}
		slices.SortFunc(all, func(a, b *ModuleInfo) int { return cmp.Compare(order[b.Name], order[a.Name]) })
		out[m.Name] = all
	}
	return out, nil
}

// device is the line of modules.devname without the module: a device whose
// first opening loads the module, by the aliases "devname:NAME" and
// "char-major-10-N" or "block-major-7-*".
func (m *ModuleInfo) device() string {
	var name, number string
	for _, a := range m.Aliases {
		if n, ok := strings.CutPrefix(a, "devname:"); ok {
			name = n
		}
		for prefix, kind := range map[string]string{"char-major-": "c", "block-major-": "b"} {
			if n, ok := strings.CutPrefix(a, prefix); ok {
				if major, minor, ok := strings.Cut(n, "-"); ok && allDigits(major) && allDigits(minor) {
					number = kind + major + ":" + minor
				}
			}
		}
	}
	if name == "" || number == "" {
		return ""
	}
	return name + " " + number
}

func allDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// canonicalAlias is an alias as modprobe looks for it: with underscores, but
// not in a set of characters.
func canonicalAlias(alias string) string {
	b := []byte(alias)
	for i, set := 0, false; i < len(b); i++ {
		switch {
		case b[i] == '[':
			set = true
		case b[i] == ']':
			set = false
		case b[i] == '-' && !set:
			b[i] = '_'
		}
	}
	return string(b)
}

type builtinAlias struct{ alias, module string }

// builtinAliases reads the aliases in modules.builtin.modinfo: NUL-terminated
// "module.key=value".
func builtinAliases(b []byte) (out []builtinAlias) {
	for part := range bytes.SplitSeq(b, []byte{0}) {
		key, value, _ := strings.Cut(string(part), "=")
		if module, ok := strings.CutSuffix(key, ".alias"); ok {
			out = append(out, builtinAlias{value, canonical(module)})
		}
	}
	return out
}

// unpack reads the module in a file of k.Modules.
func (k *Kernel) unpack(file string) ([]byte, error) {
	_, n, err := k.Modules.Resolve(file)
	if err != nil {
		return nil, err
	}
	return unpackNode(path.Base(file), n)
}

func unpackNode(name string, n *tree.Node) ([]byte, error) {
	r, err := n.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return unpackModule(name, r)
}
