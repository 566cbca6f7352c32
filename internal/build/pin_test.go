package build

import (
	"context"
	"flag"
	"os"
	"testing"

	"wolffia/internal/debian"
	"wolffia/internal/kernel"
	"wolffia/internal/store"
)

var update = flag.Bool("update", false, "pin the archive's newest user-mode-linux in uml.lock")

// TestUMLPins holds uml.lock to the suites that need it.
func TestUMLPins(t *testing.T) {
	if *update {
		pin(t)
	}
	locks, err := debian.ParseLocks(umlLock)
	if err != nil {
		t.Fatal(err)
	}
	lock := locks.Find(kernel.UMLRequest("sid", "amd64"))
	if lock == nil {
		t.Fatal("uml.lock pins nothing for sid")
	}
	names := map[string]bool{}
	for _, p := range lock.Packages {
		names[p.Name] = true
	}
	if !names["user-mode-linux"] || !names["libc6"] || !names["libgcc-s1"] {
		t.Errorf("the pin of sid holds %v", names)
	}
}

func pin(t *testing.T) {
	st, err := store.Open(store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	mirror, err := debian.FindMirror(debian.MirrorOptions{Env: os.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	if err != nil {
		t.Fatal(err)
	}
	client := debian.New(debian.Options{Store: st, Mirror: mirror, AllowExpired: true})
	lock, err := client.Resolve(context.Background(), kernel.UMLRequest("sid", "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if err := debian.WriteLocks("uml.lock", debian.Locks{}.Put(lock)); err != nil {
		t.Fatal(err)
	}
	if umlLock, err = os.ReadFile("uml.lock"); err != nil {
		t.Fatal(err)
	}
}
