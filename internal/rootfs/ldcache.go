package rootfs

import (
	"encoding/binary"
	"path"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// cacheFlags is what ld.so.cache says about a library's architecture, by
// e_machine (glibc, sysdeps/generic/ldconfig.h; 3 is FLAG_ELF_LIBC6).
var cacheFlags = map[uint16]uint32{3: 0x0003, 40: 0x0903, 62: 0x0303, 183: 0x0a03, 243: 0x1003}

// library is one entry of ld.so.cache.
type library struct {
	name, path string
	flags      uint32
}

// ldCache writes /etc/ld.so.cache, as ldconfig would, if some libraries lie in
// folders that only /etc/ld.so.conf names: the loader finds those of its own
// folders without.
func (b *builder) ldCache() error {
	const name = "/etc/ld.so.cache"
	if b.has(name) {
		return nil
	}
	p := newTreePlace(b.t)
	var libs []library
	seen := map[string]bool{}
	for _, dir := range newLoader(p).dirs {
		real, _, err := b.t.Resolve(dir)
		if err != nil || seen[real] || isSystemFolder(real) {
			continue
		}
		seen[real] = true
		for _, base := range p.list(real) {
			if !strings.HasPrefix(base, "lib") || !strings.Contains(base, ".so") {
				continue
			}
			_, o, err := p.find(path.Join(real, base))
			if err != nil || !o.dynamic || cacheFlags[o.machine] == 0 {
				continue
			}
			libs = append(libs, library{base, path.Join(dir, base), cacheFlags[o.machine]})
		}
	}
	if len(libs) == 0 {
		return nil
	}
	return b.put(name, tree.File(0o644, tree.Bytes(encodeCache(libs))))
}

// isSystemFolder reports whether the loader looks into dir unasked.
func isSystemFolder(dir string) bool {
	dir = strings.TrimPrefix(dir, "/usr")
	if dir == "/lib" || dir == "/lib64" {
		return true
	}
	for _, all := range triplets {
		for _, t := range all {
			if dir == "/lib/"+t {
				return true
			}
		}
	}
	return false
}

// encodeCache gives struct cache_file_new of glibc (sysdeps/generic/dl-cache.h),
// without extensions, for a little-endian machine:
//
//	header, 48 bytes: "glibc-ld.so.cache" "1.1", nlibs, len_strings,
//	    flags (2: little-endian), 3 unused bytes, extension_offset, 3 unused words
//	nlibs entries, 24 bytes: flags, key, value (offsets of strings from the
//	    file's start), osversion, hwcap (64 bits)
//	strings, each with a NUL
//
// The entries are in falling order of their names, for a binary search.
func encodeCache(libs []library) []byte {
	slices.SortStableFunc(libs, func(a, b library) int { return compareLibraries(b.name, a.name) })
	out := make([]byte, 48, 48+64*len(libs))
	copy(out, "glibc-ld.so.cache1.1")
	out[28] = 2
	var texts strings.Builder
	at := func(s string) uint32 {
		off := 48 + 24*len(libs) + texts.Len()
		texts.WriteString(s + "\x00")
		return uint32(off)
	}
	le := binary.LittleEndian
	for _, l := range libs {
		out = le.AppendUint32(out, l.flags)
		out = le.AppendUint32(out, at(l.name))
		out = le.AppendUint32(out, at(l.path))
		out = append(out, make([]byte, 12)...)
	}
	le.PutUint32(out[20:], uint32(len(libs)))
	le.PutUint32(out[24:], uint32(texts.Len()))
	return append(out, texts.String()...)
}

// compareLibraries is glibc's _dl_cache_libcmp: digits compare as numbers, and
// come after everything else.
func compareLibraries(a, b string) int {
	digit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	number := func(s string) (n uint64, rest string) {
		for digit(s) {
			n, s = n*10+uint64(s[0]-'0'), s[1:]
		}
		return n, s
	}
	for a != "" {
		switch {
		case digit(a) && digit(b):
			var x, y uint64
			x, a = number(a)
			y, b = number(b)
			if x != y {
				if x < y {
					return -1
				}
				return 1
			}
		case digit(a):
			return 1
		case digit(b):
			return -1
		case b == "":
			return 1
		case a[0] != b[0]:
			return int(a[0]) - int(b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return -min(len(b), 1)
}
