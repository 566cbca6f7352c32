package wolffia_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers lists the packages from the ground up. A package imports only what
// stands on a line above its own; names on one line never meet. So a reader
// can understand each with what comes before it, and no cycle of meaning
// (a format that knows a command, a switch that knows a lab) can grow.
var layers = []string{
	"tooltest",
	"tree event host lazy schedule spell stall",
	"tree/treetest tree/hostdir host/hosttest",
	"store",
	"image/compress image/mbr image/xz image/finding",
	"image/cpio image/tarball image/ext4 image/gpt image/fat image/uki image/grub image/qcow2",
	"image/oci image/disk",
	"image/oci/ocitest image/imagefile",
	"debian/control",
	"debian/resolve debian/deb",
	"debian",
	"program",
	"rootfs",
	"kernel",
	"vnet",
	"vnet/porttest vnet/forge vnet/capture/filter",
	"vnet/wire vnet/tftp vnet/capture vnet/link",
	"vnet/gateway",
	"hostnet",
	"machine machine/keeper",
	"machine/machinetest",
	"image/boottest",
	"machine/uml machine/qemu",
	"lab",
	"importer",
	"access",
	"debug",
	"build",
	"supervisor",
	"api",
	"term",
	"cli",
}

// owners names the one package that may import a heavy or moving dependency,
// so that an upgrade or a replacement touches one place. Where two have a use
// for it, both are named.
var owners = map[string]string{
	"gvisor.dev/gvisor":                      "vnet/gateway",
	"github.com/insomniacslk/dhcp":           "vnet/gateway",
	"github.com/goccy/go-yaml":               "lab importer",
	"github.com/google/go-containerregistry": "image/oci",
	"github.com/vishvananda/netlink":         "hostnet",
	"github.com/google/nftables":             "hostnet",
	"github.com/spf13/cobra":                 "cli",
	"github.com/ProtonMail/go-crypto":        "debian",
	"github.com/go-crypt/crypt":              "rootfs",
	"github.com/ulikunitz/xz":                "image/grub",
	"golang.org/x/crypto/ssh":                "access",
}

// forbidden says what no package but the named ones may import, and why.
var forbidden = []struct {
	imported string
	except   []string
	why      string
}{
	{"log", nil, "progress is events and failures are errors; only the command line prints"},
	{"unsafe", []string{"vnet/wire", "machine/uml", "machine/keeper", "host", "host/hosttest", "kernel", "vnet/gateway"}, "only system calls without a wrapper need it"},
}

const module = "wolffia/internal/"

func TestImportsPointUpwards(t *testing.T) {
	rank := map[string]int{}
	for i, line := range layers {
		for _, p := range strings.Fields(line) {
			rank[p] = i
		}
	}
	seen := map[string]bool{}
	eachImport(t, func(file, pkg, imported string, test bool) {
		seen[pkg] = true
		if _, known := rank[pkg]; !known {
			t.Errorf("%s: package %s is missing from layers in deps_test.go", file, pkg)
			return
		}
		if below, ok := strings.CutPrefix(imported, module); ok && !test {
			if at, known := rank[below]; known && at >= rank[pkg] {
				t.Errorf("%s: %s imports %s, which does not stand above it", file, pkg, below)
			}
		}
	})
	for p := range rank {
		if !seen[p] {
			t.Errorf("layers names %s, which does not exist", p)
		}
	}
}

func TestDependenciesHaveOneOwner(t *testing.T) {
	eachImport(t, func(file, pkg, imported string, test bool) {
		if test {
			return
		}
		for dep, owner := range owners {
			if (imported == dep || strings.HasPrefix(imported, dep+"/")) && !slices.Contains(strings.Fields(owner), pkg) {
				t.Errorf("%s: %s imports %s, which is %s's alone", file, pkg, imported, owner)
			}
		}
		for _, f := range forbidden {
			if imported == f.imported && !slices.Contains(f.except, pkg) {
				t.Errorf("%s: %s imports %s: %s", file, pkg, imported, f.why)
			}
		}
	})
}

// eachImport calls fn for every import of every file under internal, and once
// for each file without one.
func eachImport(t *testing.T, fn func(file, pkg, imported string, test bool)) {
	t.Helper()
	err := filepath.WalkDir("internal", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := strings.TrimPrefix(path.Dir(filepath.ToSlash(file)), "internal/")
		fn(file, pkg, "", strings.HasSuffix(file, "_test.go")) // for files that import nothing
		for _, i := range parsed.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			fn(file, pkg, imported, strings.HasSuffix(file, "_test.go"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
