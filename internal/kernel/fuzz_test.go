package kernel

import (
	"bytes"
	"debug/elf"
	"slices"
	"strings"
	"testing"
)

// relocatable is the smallest object with a .modinfo and a debug section.
func relocatable() []byte {
	le := func(v uint64, n int) (b []byte) {
		for range n {
			b = append(b, byte(v))
			v >>= 8
		}
		return b
	}
	names := "\x00.shstrtab\x00.modinfo\x00.debug_info\x00"
	info := "license=GPL\x00depends=a,b-c\x00depends=late\x00"
	debug := strings.Repeat("d", 64)
	var b []byte
	b = append(b, "\x7fELF\x02\x01\x01"...)
	b = append(b, make([]byte, 9)...)
	b = append(b, le(1, 2)...)  // ET_REL
	b = append(b, le(62, 2)...) // x86-64
	b = append(b, le(1, 4)...)
	b = append(b, make([]byte, 16)...)
	body := names + info + debug
	shoff := 64 + len(body)
	b = append(b, le(uint64(shoff), 8)...)
	b = append(b, le(0, 4)...)
	for _, v := range []uint64{64, 0, 0, 64, 4, 1} {
		b = append(b, le(v, 2)...)
	}
	b = append(b, body...)
	b = append(b, make([]byte, 64)...)
	off := uint64(64)
	for _, s := range []struct {
		name, typ uint64
		size      int
	}{{1, 3, len(names)}, {11, 1, len(info)}, {20, 1, len(debug)}} {
		for _, f := range []struct {
			v uint64
			n int
		}{{s.name, 4}, {s.typ, 4}, {0, 8}, {0, 8}, {off, 8}, {uint64(s.size), 8}, {0, 4}, {0, 4}, {1, 8}, {0, 8}} {
			b = append(b, le(f.v, f.n)...)
		}
		off += uint64(s.size)
	}
	return b
}

func TestModinfo(t *testing.T) {
	m := relocatable()
	info, err := modinfo(m)
	if err != nil || strings.Join(info["depends"], ";") != "a,b-c;late" || strings.Join(info["license"], ";") != "GPL" {
		t.Errorf("%v, %v", info, err)
	}
	s := stripDebug(m)
	if bytes.Contains(s, []byte("dddd")) || len(s) >= len(m) {
		t.Errorf("%d bytes of %d", len(s), len(m))
	}
	if again, err := modinfo(s); err != nil || strings.Join(again["depends"], ";") != "a,b-c;late" {
		t.Errorf("stripped: %v, %v", again, err)
	}
	signed := append(bytes.Clone(m), signatureMark...)
	if !bytes.Equal(stripDebug(signed), signed) {
		t.Error("a signed module was changed")
	}
}

func FuzzModule(f *testing.F) {
	f.Add(relocatable())
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(t *testing.T, b []byte) {
		exports(b)
		info, err := modinfo(b)
		s := stripDebug(b)
		if len(s) > 2*len(b)+1<<20 {
			t.Errorf("%d bytes became %d", len(b), len(s))
		}
		if err != nil || bytes.Equal(s, b) {
			return
		}
		again, err := modinfo(s)
		if err == nil && !slices.Equal(info["license"], again["license"]) {
			t.Errorf("stripping changed %v to %v", info, again)
		}
	})
}

func FuzzUnpackModule(f *testing.F) {
	f.Add(".gz", []byte("\x1f\x8b\x08\x00"))
	f.Add(".xz", []byte("\xfd7zXZ\x00"))
	f.Add(".zst", []byte("\x28\xb5\x2f\xfd"))
	f.Add(".ko", []byte("plain"))
	f.Fuzz(func(t *testing.T, ext string, b []byte) {
		out, err := unpackModule("m.ko"+ext, bytes.NewReader(b))
		if err == nil && len(out) > maxModule {
			t.Errorf("%d bytes", len(out))
		}
	})
}
