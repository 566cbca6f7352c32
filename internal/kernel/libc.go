package kernel

import (
	"debug/elf"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Version is a version of the GNU C library, such as 2.36.
type Version struct{ Major, Minor int }

// String is the version as people write it, or "none".
func (v Version) String() string {
	if v == (Version{}) {
		return "none"
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// Less says whether v is older than o.
func (v Version) Less(o Version) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

// glibcVersion reads "GLIBC_2.34"; ok is false for other names, such as
// GLIBC_PRIVATE.
func glibcVersion(s string) (v Version, ok bool) {
	s, ok = strings.CutPrefix(s, "GLIBC_")
	if !ok {
		return v, false
	}
	major, minor, _ := strings.Cut(s, ".")
	minor, _, _ = strings.Cut(minor, ".")
	var err1, err2 error
	v.Major, err1 = strconv.Atoi(major)
	v.Minor, err2 = strconv.Atoi(minor)
	return v, err1 == nil && err2 == nil && v.Major >= 0 && v.Minor >= 0
}

// NeededLibc is the oldest glibc that the program or library in r runs with:
// the newest version named in its version-needed section (.gnu.version_r). It
// is zero for what does not use glibc.
func NeededLibc(r io.ReaderAt) (Version, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return Version{}, fmt.Errorf("read ELF file: %w", err)
	}
	needs, err := f.DynamicVersionNeeds()
	if err != nil {
		return Version{}, fmt.Errorf("read needed versions: %w", err)
	}
	var newest Version
	for _, lib := range needs {
		for _, need := range lib.Needs {
			if v, ok := glibcVersion(need.Dep); ok && newest.Less(v) {
				newest = v
			}
		}
	}
	return newest, nil
}

// LibcVersion is the version of the glibc in r, a libc.so.6: the newest that it
// defines (.gnu.version_d).
func LibcVersion(r io.ReaderAt) (Version, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return Version{}, fmt.Errorf("read ELF file: %w", err)
	}
	defs, err := f.DynamicVersions()
	if err != nil {
		return Version{}, fmt.Errorf("read defined versions: %w", err)
	}
	var newest Version
	for _, d := range defs {
		if v, ok := glibcVersion(d.Name); ok && newest.Less(v) {
			newest = v
		}
	}
	if newest == (Version{}) {
		return newest, fmt.Errorf("not a glibc: it defines no GLIBC version")
	}
	return newest, nil
}
