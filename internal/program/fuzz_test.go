package program

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"
)

func FuzzSetInterpreter(f *testing.F) {
	if b, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(b)
	}
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(t *testing.T, b []byte) {
		interpreter(bytes.NewReader(b))
		name := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := setInterpreter(name, "rt/ld.so"); err != nil {
			return
		}
		if info, err := os.Stat(name); err != nil || info.Size() > int64(len(b))+10 && len(b) > 0 && info.Size() > 1<<30 {
			t.Errorf("%v, %v", info, err)
		}
	})
}
