package hostnet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHelperLacks: what is missing for a bridge is told, one thing after the other.
func TestHelperLacks(t *testing.T) {
	dir := t.TempDir()
	helper, conf := filepath.Join(dir, "helper"), filepath.Join(dir, "bridge.conf")
	expect := func(path, why, fix string) {
		t.Helper()
		w, f := helperLacks(path, conf)
		if !strings.Contains(w, why) || !strings.Contains(f, fix) || (why == "") != (w == "") || (fix == "") != (f == "") {
			t.Errorf("%q, %q; want %q, %q", w, f, why, fix)
		}
	}
	expect("", "there is no qemu-bridge-helper", "apt-get install")
	if err := os.WriteFile(helper, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	expect(helper, "neither setuid", "chmod u+s "+helper)
	if err := os.Chmod(helper, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	expect(helper, "there is no "+conf, "allow br0")
	for text, why := range map[string]string{"# nothing\ndeny all\n": "allows no bridge", "allow br1\n": "", "include other.conf\n": ""} {
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		fix := ""
		if why != "" {
			fix = "bridge.conf"
		}
		expect(helper, why, fix)
	}
}
