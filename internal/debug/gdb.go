package debug

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"wolffia/internal/host"
)

// architectures are gdb's names for Debian's.
var architectures = map[string]string{
	"amd64": "i386:x86-64", "i386": "i386", "arm64": "aarch64", "armhf": "arm", "riscv64": "riscv:rv64",
}

// natives are the architectures, by Debian's names, that every gdb knows on a
// host that Go calls so.
var natives = map[string][]string{
	"amd64": {"amd64", "i386"}, "386": {"i386"}, "arm64": {"arm64"}, "arm": {"armhf"}, "riscv64": {"riscv64"},
}

// FindGDB finds a gdb of the host, in the folders of search as in PATH, that
// knows an architecture, by Debian's name. Where there is none, the error is a
// [*host.UnsupportedError].
func FindGDB(ctx context.Context, arch, search string) (string, error) {
	names, foreign := []string{"gdb", "gdb-multiarch"}, true
	for _, a := range natives[runtime.GOARCH] {
		foreign = foreign && a != arch
	}
	if foreign { // Debian's gdb knows its own alone; elsewhere gdb knows all
		names = []string{"gdb-multiarch", "gdb"}
	}
	var why []string
	for _, name := range names {
		path := lookUp(name, search)
		switch {
		case path == "":
			why = append(why, name+" is not there")
		case foreign && !knows(ctx, path, arch):
			why = append(why, path+" does not know "+arch)
		default:
			return path, nil
		}
	}
	pkg := "gdb"
	if foreign {
		pkg = "gdb-multiarch"
	}
	return "", &host.UnsupportedError{
		Feature: "debugging of " + arch, Why: strings.Join(why, ", and "),
		Fix: "install " + pkg + ", on Debian with: sudo apt-get install " + pkg,
	}
}

func lookUp(name, search string) string {
	for _, dir := range filepath.SplitList(search) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// knows asks a gdb about an architecture.
func knows(ctx context.Context, gdb, arch string) bool {
	name, ok := architectures[arch]
	return ok && exec.CommandContext(ctx, gdb, "-nx", "-nh", "-batch", "-ex", "set architecture "+name).Run() == nil
}

// Session is how gdb is started for a target.
type Session struct {
	Socket  string   // path of the unix socket where the target is
	Sysroot string   // see [Sysroot]; empty has gdb read files from the target itself
	Symbols []string // folders with debug symbols: see [Symbols]
	File    string   // path of what is debugged, where the target can't tell: a vmlinux
	Trusted []string // folders whose scripts gdb may load by itself
	Args    []string // further arguments of gdb's
}

// remoteTimeout is how long gdb waits for an answer, in seconds: an emulated
// machine on a busy host takes longer than gdb's own two.
const remoteTimeout = 60

// Arguments are gdb's arguments: the target comes before what the person asks for.
func (s Session) Arguments() []string {
	args := []string{"-q", "-iex", fmt.Sprintf("set remotetimeout %d", remoteTimeout)}
	if s.File == "" {
		root := s.Sysroot
		if root == "" {
			root = "target:"
		}
		args = append(args, "-iex", "set sysroot "+root)
	}
	if len(s.Symbols) > 0 {
		args = append(args, "-iex", "set debug-file-directory "+strings.Join(append(s.Symbols, "/usr/lib/debug"), ":"))
	}
	for _, dir := range s.Trusted {
		args = append(args, "-iex", "add-auto-load-safe-path "+dir)
	}
	if s.File != "" {
		args = append(args, s.File)
	}
	args = append(args, "-ex", "target remote "+s.Socket)
	return append(args, s.Args...)
}
