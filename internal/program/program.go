// Package program takes programs out of unpacked Debian packages and makes
// them run from any folder of the host, with a dynamic loader and libraries of
// their own, so that neither the host's distribution nor its C library matter,
// and without root.
//
//	p, err := program.Install(dir, pkgs, "/usr/bin/qemu-system-x86_64", program.Options{})
//	cmd := exec.Command(p.Argv()[0], append(p.Argv()[1:], "-version")...)
//
// In dir lie the program and, in the folder [RuntimeDir] beside it, its loader
// and the libraries that it needs by its ELF headers (DT_NEEDED), and that those
// need. There are two ways to start it: through the loader ([Program.Argv]), or,
// for programs that start themselves anew by /proc/self/exe, as it is, when
// [Options.Relative] has changed the loader that it names.
//
// Deliberately absent: what a program opens by name while it runs (dlopen,
// data files, NSS and iconv modules), which is the caller's to bring; library
// paths in the program (DT_RUNPATH), as Debian's programs find theirs in the
// folders of their architecture; other than 64-bit little-endian programs for
// Relative.
//
// See ld.so(8) and the System V gABI, chapters 4 and 5.
package program

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// What Install writes beside the program.
const (
	RuntimeDir = "rt" // the dynamic loader and the libraries
	loaderName = "ld.so"
	// RuntimeLoader is the loader that a relative program names. Who starts the
	// program does so in a folder with a link RuntimeDir to the folder of that
	// name beside the program, and sets LD_LIBRARY_PATH=rt. So it can lie anywhere.
	RuntimeLoader = RuntimeDir + "/" + loaderName
)

// maxFile bounds the program and each library, in bytes.
const maxFile = 1 << 30

// Options of [Install].
type Options struct {
	Name     string // of the program in the folder; empty for the name it has
	Relative bool   // make the program name RuntimeLoader as its loader
	// Libraries are installed with what they need although no ELF header asks
	// for them: what the program opens by name. Of any program that ends
	// threads, the C library opens libgcc_s.so.1.
	Libraries []string
}

// Program is an installed program.
type Program struct {
	Path    string // of the program itself
	Runtime string // folder of its loader and libraries
}

// Argv begins a command that runs the program with its own loader and
// libraries. No file of the host's is looked at for libraries.
func (p *Program) Argv() []string {
	return []string{filepath.Join(p.Runtime, loaderName), "--inhibit-cache", "--library-path", p.Runtime, p.Path}
}

// At gives the program called name that Install wrote into dir.
func At(dir, name string) *Program {
	return &Program{Path: filepath.Join(dir, name), Runtime: filepath.Join(dir, RuntimeDir)}
}

// Install writes the program at a path of pkgs, and the loader and libraries
// that it needs from there, into dir, which exists. A library that pkgs lacks
// is an error.
func Install(dir string, pkgs *tree.Tree, name string, o Options) (*Program, error) {
	fail := func(err error) (*Program, error) { return nil, fmt.Errorf("install %s: %w", name, err) }
	if o.Name == "" {
		o.Name = path.Base(name)
	}
	p := At(dir, o.Name)
	_, n, err := pkgs.Resolve(name)
	if err != nil {
		return fail(err)
	}
	if err := WriteFile(p.Path, n); err != nil {
		return fail(err)
	}
	interp, err := Interpreter(p.Path)
	if err != nil {
		return fail(fmt.Errorf("read its ELF header: %w", err))
	}
	if interp == "" {
		return fail(errors.New("program is not dynamically linked"))
	}
	if o.Relative {
		if err := setInterpreter(p.Path, RuntimeLoader); err != nil {
			return fail(err)
		}
	}
	if err := os.Mkdir(p.Runtime, 0o755); err != nil {
		return fail(err)
	}
	_, loader, err := pkgs.Resolve(interp)
	if err != nil {
		return fail(fmt.Errorf("dynamic loader: %w", err))
	}
	if err := WriteFile(filepath.Join(p.Runtime, loaderName), loader); err != nil {
		return fail(err)
	}
	c := copier{pkgs: pkgs, dir: p.Runtime, done: []string{path.Base(interp)}} // libc asks for the loader by its name
	if err := c.needs(p.Path, o.Libraries); err != nil {
		return fail(err)
	}
	return p, nil
}

// maxLibraries bounds what a program may need.
const maxLibraries = 1000

// copier copies shared libraries into a folder.
type copier struct {
	pkgs *tree.Tree
	dir  string
	todo []string // paths of what was copied and not looked into
	done []string // names of libraries that are there
}

// needs copies the libraries that the program needs, those called more, and
// what all of them need.
func (c *copier) needs(program string, more []string) error {
	for c.todo = []string{program}; len(c.todo) > 0; c.todo = c.todo[1:] {
		f, err := elf.Open(c.todo[0])
		if err != nil {
			return err
		}
		libs, err := f.ImportedLibraries()
		machine := f.Machine
		f.Close()
		if err != nil {
			return fmt.Errorf("read what %s needs: %w", filepath.Base(c.todo[0]), err)
		}
		for _, lib := range append(libs, more...) {
			if err := c.add(machine, lib, c.todo[0]); err != nil {
				return err
			}
		}
		more = nil
	}
	return nil
}

func (c *copier) add(machine elf.Machine, lib, user string) error {
	if slices.Contains(c.done, lib) {
		return nil
	}
	n := findLibrary(c.pkgs, machine, lib)
	if n == nil || len(c.done) == maxLibraries {
		return fmt.Errorf("shared library %s, which %s needs, is not in its packages", lib, filepath.Base(user))
	}
	at := filepath.Join(c.dir, lib)
	if err := WriteFile(at, n); err != nil {
		return err
	}
	c.todo, c.done = append(c.todo, at), append(c.done, lib)
	return nil
}

// folders are where the libraries of Debian's programs lie, by architecture.
var folders = map[elf.Machine][]string{
	elf.EM_X86_64:  {"/usr/lib/x86_64-linux-gnu", "/usr/lib64"},
	elf.EM_386:     {"/usr/lib/i386-linux-gnu", "/usr/lib32"},
	elf.EM_AARCH64: {"/usr/lib/aarch64-linux-gnu"},
	elf.EM_ARM:     {"/usr/lib/arm-linux-gnueabihf"},
	elf.EM_RISCV:   {"/usr/lib/riscv64-linux-gnu"},
}

// findLibrary looks for a library in the folders of the architecture, as they
// are and as they were before /usr was merged.
func findLibrary(pkgs *tree.Tree, machine elf.Machine, name string) *tree.Node {
	if path.Base(name) != name {
		return nil
	}
	for _, dir := range append(folders[machine], "/usr/lib") {
		for _, dir := range []string{dir, strings.TrimPrefix(dir, "/usr")} {
			if _, n, err := pkgs.Resolve(path.Join(dir, name)); err == nil && n.Type() == tree.TypeRegular {
				return n
			}
		}
	}
	return nil
}

// WriteFile writes the content of a regular file, with holes for zeros, as an
// executable file that must not be there yet.
func WriteFile(name string, n *tree.Node) error {
	if n.Size() > maxFile {
		return fmt.Errorf("write %s: %d bytes are too many", name, n.Size())
	}
	r, err := n.Open()
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer r.Close()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	return errors.Join(copySparse(f, r), f.Close())
}

// hole is the least run of zeros, in bytes and in place, that is left out.
const hole = 64 << 10

func copySparse(f *os.File, r io.Reader) error {
	buf := make([]byte, hole)
	var at int64
	for {
		n, err := io.ReadFull(r, buf)
		if b := buf[:n]; !zero(b) {
			if _, err := f.WriteAt(b, at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return f.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
