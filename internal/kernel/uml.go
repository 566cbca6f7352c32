package kernel

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"wolffia/internal/tree"
)

// What InstallUML writes.
const (
	UMLName    = "linux" // the executable
	RuntimeDir = "rt"    // the dynamic loader and the C library, beside it
	// RuntimeLoader is the loader that the executable names. It is relative:
	// who starts the executable does so in a folder with a link RuntimeDir to
	// the folder of that name beside the executable, and sets
	// LD_LIBRARY_PATH=rt. So the folder can lie anywhere.
	RuntimeLoader = RuntimeDir + "/ld.so"
)

// UMLSuite is a Debian suite with a user-mode-linux.
type UMLSuite struct {
	Name string // "sid"
	// MaxXState is the most bytes of processor state (PTRACE_GETREGSET of
	// NT_X86_XSTATE) that this kernel can handle; 0 for any.
	MaxXState int
}

// umlSuites are the suites to choose from, newest kernel first. Before Linux
// 6.13 user-mode-linux has a buffer of 2696 bytes for the processor's state,
// enough for AVX-512; on a processor with AMX it can't run any program.
var umlSuites = []UMLSuite{
	{Name: "sid"},
	{Name: "trixie", MaxXState: 2696},
	{Name: "bookworm", MaxXState: 2696},
}

// UMLPackages are the packages that InstallUML wants, from one suite.
var UMLPackages = [...]string{"user-mode-linux", "libc6"}

// UMLSuites lists the suites whose user-mode-linux runs on a host whose
// processor state takes xstate bytes (see package host; 0 for unknown), best
// first. The host's C library does not matter.
func UMLSuites(xstate int) []string {
	var out []string
	for _, s := range umlSuites {
		if s.MaxXState == 0 || xstate <= s.MaxXState {
			out = append(out, s.Name)
		}
	}
	return out
}

// InstallUML writes a user-mode-linux that runs on any host into dir, which
// exists and is empty: the executable, changed to use the loader in
// RuntimeDir, and there the loader and the libraries it needs, taken from
// libc, the unpacked libc6 of the same suite.
func (k *Kernel) InstallUML(dir string, libc *tree.Tree) error {
	fail := func(err error) error { return fmt.Errorf("install user-mode-linux %s: %w", k.Release, err) }
	if k.uml == nil {
		return fail(errors.New("the package holds no /usr/bin/linux.uml"))
	}
	linux := filepath.Join(dir, UMLName)
	if err := writeNode(linux, k.uml); err != nil {
		return fail(err)
	}
	rt := filepath.Join(dir, RuntimeDir)
	if err := os.Mkdir(rt, 0o755); err != nil {
		return fail(err)
	}
	interp, err := setInterpreter(linux, RuntimeLoader)
	if err != nil {
		return fail(err)
	}
	_, loader, err := libc.Resolve(interp)
	if err != nil {
		return fail(fmt.Errorf("dynamic loader in libc6: %w", err))
	}
	if err := writeNode(filepath.Join(dir, RuntimeLoader), loader); err != nil {
		return fail(err)
	}
	if err := copyLibraries(linux, rt, path.Base(interp), libc); err != nil {
		return fail(err)
	}
	return nil
}

// copyLibraries copies the shared libraries that the file at elfPath needs, and
// those that they need, into the folder rt.
func copyLibraries(elfPath, rt, loader string, libc *tree.Tree) error {
	todo, done := []string{elfPath}, []string{loader}
	for len(todo) > 0 {
		f, err := elf.Open(todo[0])
		if err != nil {
			return err
		}
		libs, err := f.ImportedLibraries()
		f.Close()
		if err != nil {
			return err
		}
		todo = todo[1:]
		for _, lib := range libs {
			if slices.Contains(done, lib) {
				continue
			}
			n := findLibrary(libc, lib)
			if n == nil {
				return fmt.Errorf("shared library %s is not in libc6", lib)
			}
			at := filepath.Join(rt, path.Base(lib))
			if err := writeNode(at, n); err != nil {
				return err
			}
			todo, done = append(todo, at), append(done, lib)
		}
	}
	return nil
}

func findLibrary(libc *tree.Tree, name string) *tree.Node {
	if path.Base(name) != name {
		return nil
	}
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib/i386-linux-gnu", "/lib/i386-linux-gnu", "/usr/lib64", "/lib64"} {
		if _, n, err := libc.Resolve(path.Join(dir, name)); err == nil && n.Type() == tree.TypeRegular {
			return n
		}
	}
	return nil
}

// writeNode writes a regular file, executable and not writable afterwards.
func writeNode(name string, n *tree.Node) error {
	if n.Size() > maxLinux {
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
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// Fields of a 64-bit program header (System V gABI, chapter 5).
const (
	phSize   = 56
	phOffset = 8
	phFilesz = 32
	phMemsz  = 40
	ehPhoff  = 0x20
)

// setInterpreter makes the program at name ask the kernel for the dynamic
// loader interp, and gives the one it asked for before. The new name goes to
// the end of the file: the kernel reads it by file offset, so that it need not
// be in a loaded segment (elf(5), PT_INTERP).
func setInterpreter(name, interp string) (old string, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		return "", err
	}
	if e.Class != elf.ELFCLASS64 || e.ByteOrder != binary.ByteOrder(binary.LittleEndian) {
		return "", errors.New("not a 64-bit little-endian program")
	}
	i := slices.IndexFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i < 0 {
		return "", errors.New("program is not dynamically linked")
	}
	if old, err = Interpreter(name); err != nil {
		return "", err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	if _, err := f.Write(append([]byte(interp), 0)); err != nil {
		return "", err
	}
	var header [ehSize]byte
	if _, err := f.ReadAt(header[:], 0); err != nil {
		return "", err
	}
	at := int64(binary.LittleEndian.Uint64(header[ehPhoff:])) + int64(i)*phSize
	for field, v := range map[int64]uint64{phOffset: uint64(end), phFilesz: uint64(len(interp) + 1), phMemsz: uint64(len(interp) + 1)} {
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, v), at+field); err != nil {
			return "", err
		}
	}
	return old, nil
}

// Interpreter is the dynamic loader that the program at name asks for; "" for
// a static one.
func Interpreter(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return interpreter(f)
}

func interpreter(r io.ReaderAt) (string, error) {
	e, err := elf.NewFile(r)
	if err != nil {
		return "", err
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz > tree.MaxPath {
			return "", errors.New("the dynamic loader's path is too long")
		}
		b := make([]byte, p.Filesz)
		if _, err := io.ReadFull(p.Open(), b); err != nil {
			return "", fmt.Errorf("read the dynamic loader's path: %w", err)
		}
		if n := slices.Index(b, 0); n >= 0 {
			b = b[:n]
		}
		return string(b), nil
	}
	return "", nil
}
