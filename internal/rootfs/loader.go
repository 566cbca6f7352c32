package rootfs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// place is a file system to look for libraries in: a tree or the host.
type place interface {
	// find follows the links of name and gives the path of every name on the
	// way, the links and at last the file itself, and the file's headers.
	find(name string) (names []string, o *object, err error)
	// list names the entries of a folder.
	list(name string) []string
	// read gives the text of a small file.
	read(name string) ([]byte, error)
}

// loader looks for libraries as ld.so(8) does: DT_RPATH unless there is a
// DT_RUNPATH, DT_RUNPATH, the folders of ld.so.conf, the system's own.
// Environment variables and glibc-hwcaps folders are not looked at.
type loader struct {
	place
	dirs []string
}

// maxConf bounds the files of ld.so.conf, in files and bytes of each.
const maxConf, maxConfBytes = 256, 1 << 20

// triplets are Debian's multiarch folders by e_machine, class and byte order.
var triplets = map[uint16][]string{
	3:   {"i386-linux-gnu"},
	8:   {"mips64el-linux-gnuabi64", "mipsel-linux-gnu"},
	21:  {"powerpc64le-linux-gnu"},
	22:  {"s390x-linux-gnu"},
	40:  {"arm-linux-gnueabihf", "arm-linux-gnueabi"},
	62:  {"x86_64-linux-gnu", "x86_64-linux-gnux32"},
	183: {"aarch64-linux-gnu"},
	243: {"riscv64-linux-gnu"},
	258: {"loongarch64-linux-gnu"},
}

func newLoader(p place) *loader {
	l := &loader{place: p}
	budget := maxConf
	l.conf("/etc/ld.so.conf", &budget)
	return l
}

// conf reads ld.so.conf(5): one folder a line, and includes with patterns.
func (l *loader) conf(name string, budget *int) {
	if *budget--; *budget < 0 {
		return
	}
	data, err := l.read(name)
	if err != nil {
		return
	}
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "include":
			pattern := words[1]
			if !path.IsAbs(pattern) {
				pattern = path.Join(path.Dir(name), pattern)
			}
			for _, entry := range l.list(path.Dir(pattern)) {
				if ok, _ := path.Match(path.Base(pattern), entry); ok {
					l.conf(path.Join(path.Dir(pattern), entry), budget)
				}
			}
		case len(words) == 1 && path.IsAbs(words[0]):
			l.dirs = append(l.dirs, path.Clean(words[0]))
		}
	}
}

// folders lists where the library of the object o, which is at file, may be.
func (l *loader) folders(file string, o *object, rpath []string) []string {
	search := rpath
	if len(o.runpath) > 0 {
		search = o.runpath
	}
	var out []string
	var multiarch string
	if t := triplets[o.machine]; len(t) > 0 {
		multiarch = t[0]
	}
	lib := "lib"
	if o.class == elfClass64 {
		lib = "lib64"
	}
	expand := strings.NewReplacer(
		"$ORIGIN", path.Dir(file), "${ORIGIN}", path.Dir(file),
		"$LIB", "lib/"+multiarch, "${LIB}", "lib/"+multiarch)
	for _, d := range search {
		if d = expand.Replace(d); path.IsAbs(d) && !strings.Contains(d, "$") {
			out = append(out, path.Clean(d))
		}
	}
	out = append(out, l.dirs...)
	for _, t := range triplets[o.machine] {
		out = append(out, "/lib/"+t, "/usr/lib/"+t)
	}
	return append(out, "/"+lib, "/usr/"+lib, "/lib", "/usr/lib")
}

// library finds the library called name for the object o at file.
func (l *loader) library(name, file string, o *object, rpath []string) (names []string, lib *object, ok bool) {
	try := []string{name}
	if !strings.Contains(name, "/") {
		try = try[:0]
		for _, d := range l.folders(file, o, rpath) {
			try = append(try, path.Join(d, name))
		}
	}
	for _, p := range try {
		if names, lib, err := l.find(p); err == nil && lib.fits(o) {
			return names, lib, true
		}
	}
	return nil, nil, false
}

// visit is one file to look through.
type visit struct {
	file  string
	o     *object
	rpath []string // of it and of what asked for it
}

// closure gives every file that the programs at roots need, themselves and
// links on the way included, and "PATH needs WHAT" for what is not there.
// Files that are not ELF count as needing nothing.
func (l *loader) closure(roots []string) (files map[string]bool, missing []string) {
	files = map[string]bool{}
	queue := []visit{}
	add := func(names []string, o *object, rpath []string) {
		last := names[len(names)-1]
		seen := files[last]
		for _, n := range names {
			files[n] = true
		}
		if seen || o == nil {
			return
		}
		if len(o.runpath) == 0 {
			rpath = append(slices.Clone(rpath), o.rpath...)
		}
		queue = append(queue, visit{last, o, rpath})
	}
	for _, r := range roots {
		if names, o, err := l.find(r); err == nil {
			add(names, o, nil)
		}
	}
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		if v.o.interp != "" {
			if names, o, err := l.find(v.o.interp); err == nil {
				add(names, o, nil)
			} else {
				missing = append(missing, v.file+" needs "+v.o.interp)
			}
		}
		for _, name := range v.o.needed {
			names, o, ok := l.library(name, v.file, v.o, v.rpath)
			if !ok {
				missing = append(missing, v.file+" needs "+name)
				continue
			}
			add(names, o, v.rpath)
		}
	}
	slices.Sort(missing)
	return files, slices.Compact(missing)
}

// Libraries is what [HostLibraries] found.
type Libraries struct {
	Files   []string // absolute paths of files and links, sorted; the program is not among them
	Missing []string // libraries that the host lacks
}

// HostLibraries finds the shared libraries and the loader that a program of
// the host needs, as ldd(1) would, but by reading ELF headers: nothing is run.
// A program that is static, or no ELF file, needs none.
func HostLibraries(program string) (*Libraries, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	names, _, err := hostPlace{}.find(program)
	if err != nil {
		return nil, plain(err)
	}
	found, missing := newLoader(hostPlace{}).closure([]string{program})
	out := &Libraries{}
	for f := range found {
		if !slices.Contains(names, f) {
			out.Files = append(out.Files, f)
		}
	}
	slices.Sort(out.Files)
	for _, m := range missing {
		_, what, _ := strings.Cut(m, " needs ")
		out.Missing = append(out.Missing, what)
	}
	return out, nil
}

// hostPlace is the host's own file system.
type hostPlace struct{}

func (hostPlace) find(name string) ([]string, *object, error) {
	var names []string
	for range 40 {
		// Links in the folder (merged /usr) are followed without a trace: the
		// image has its own.
		dir, err := filepath.EvalSymlinks(filepath.Dir(name))
		if err != nil {
			return nil, nil, err
		}
		name = filepath.Join(dir, filepath.Base(name))
		names = append(names, name)
		target, err := os.Readlink(name)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		name = target
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	o, err := readObject(f, info.Size())
	if err == errNotELF {
		return names, &object{}, nil
	}
	return names, o, err
}

func (hostPlace) list(name string) []string {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (hostPlace) read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxConfBytes))
}

// treePlace is an unpacked tree.
type treePlace struct {
	t     *tree.Tree
	known map[*tree.Node]*object // what was read before
}

func newTreePlace(t *tree.Tree) treePlace { return treePlace{t, map[*tree.Node]*object{}} }

func (p treePlace) find(name string) ([]string, *object, error) {
	names, n, err := p.chain(name)
	if err != nil {
		return nil, nil, err
	}
	if n.Type() != tree.TypeRegular {
		return names, &object{}, nil
	}
	o, known := p.known[n]
	if !known {
		if o, err = readNode(n); err == errNotELF {
			o, err = &object{}, nil
		}
		if err != nil {
			return names, nil, fmt.Errorf("%s: %w", names[len(names)-1], err)
		}
		p.known[n] = o
	}
	return names, o, nil
}

// chain follows the links at the end of name, one by one.
func (p treePlace) chain(name string) ([]string, *tree.Node, error) {
	var names []string
	for range 40 {
		dir, d, err := p.t.Resolve(path.Dir(name))
		if err != nil {
			return nil, nil, err
		}
		if !d.IsDir() {
			return nil, nil, &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
		}
		name = path.Join(dir, path.Base(name))
		n := p.t.Get(name)
		if n == nil {
			return nil, nil, &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
		}
		names = append(names, name)
		if n.Type() != tree.TypeSymlink {
			return names, n, nil
		}
		if name = n.Target; !path.IsAbs(name) {
			name = dir + "/" + name
		}
	}
	return nil, nil, &fs.PathError{Op: "find", Path: name, Err: fs.ErrInvalid}
}

func (p treePlace) list(name string) []string {
	_, n, err := p.t.Resolve(name)
	if err != nil || !n.IsDir() {
		return nil
	}
	return n.Names()
}

func (p treePlace) read(name string) ([]byte, error) { return p.t.ReadFile(name, maxConfBytes) }
