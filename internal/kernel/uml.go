package kernel

import (
	"fmt"

	"wolffia/internal/program"
	"wolffia/internal/tree"
)

// UMLName is the executable that InstallUML writes. It is a relative program,
// see [program.RuntimeLoader]: user-mode-linux starts itself anew.
const UMLName = "linux"

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
var UMLPackages = [...]string{"user-mode-linux", "libc6", "libgcc-s1"}

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
// exists and is empty: the executable of pkgs, the unpacked [UMLPackages], and
// the loader and the libraries that it needs, with that which the C library opens
// by its name when a thread ends: without it the kernel is aborted when it halts.
func (k *Kernel) InstallUML(dir string, pkgs *tree.Tree) error {
	if _, err := program.Install(dir, pkgs, "/usr/bin/linux.uml", program.Options{Name: UMLName, Relative: true, Libraries: []string{"libgcc_s.so.1"}}); err != nil {
		return fmt.Errorf("install user-mode-linux %s: %w", k.Release, err)
	}
	return nil
}
