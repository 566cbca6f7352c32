package host

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// TestProbesAgreeWithTools holds each probe to a tool that tries the same.
func TestProbesAgreeWithTools(t *testing.T) {
	h := New()
	for name, c := range map[string]struct {
		probe func() error
		tool  []string
	}{
		"user namespaces": {h.UserNamespaces, []string{"unshare", "--user", "--net", "--pid", "--fork", "true"}},
	} {
		if _, err := exec.LookPath(c.tool[0]); err != nil {
			t.Fatalf("%s is needed: apt-get install util-linux", c.tool[0])
		}
		err := exec.Command(c.tool[0], c.tool[1:]...).Run()
		if (err == nil) != (c.probe() == nil) {
			t.Errorf("%s: the tool says %v, the probe %v", name, err, c.probe())
		}
	}
}

func TestEveryFailureNamesAFix(t *testing.T) {
	for _, c := range New().All() {
		if c.OK && (c.Why != "" || c.Fix != "") {
			t.Errorf("%s works, and says %q", c.Name, c.Why)
		}
		if !c.OK && (c.Why == "" || c.Fix == "") {
			t.Errorf("%s does not work, and says neither why (%q) nor what to do (%q)", c.Name, c.Why, c.Fix)
		}
	}
}

// TestKVMIsTried shows that opening the device is not taken for proof: the
// answer is yes only after a guest ran.
func TestKVMIsTried(t *testing.T) {
	err := New().KVM()
	if err == nil {
		return
	}
	var u *UnsupportedError
	if !errors.As(err, &u) || u.Feature != "KVM" {
		t.Errorf("the error is %v", err)
	}
	if f, oerr := os.OpenFile("/dev/kvm", os.O_RDWR, 0); oerr == nil {
		f.Close()
		t.Logf("the device opens: %v", err)
	}
}

func TestProbesRunOnce(t *testing.T) {
	h := New()
	if a, b := h.KVM(), h.KVM(); a != b {
		t.Errorf("asked twice, KVM says %v and %v", a, b)
	}
}

// TestXState holds the size of the processor's state to what /proc/cpuinfo
// says the processor has.
func TestXState(t *testing.T) {
	h := New()
	n := h.XState()
	if runtime.GOARCH != "amd64" || h.Trace() != nil {
		return
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	least, most := 512+64, 2696 // FXSAVE and a header; AVX-512 and protection keys
	if strings.Contains(string(info), " amx_tile") {
		least, most = 8192, 64<<10
	}
	if n < least || n > most {
		t.Errorf("%d bytes, not from %d to %d", n, least, most)
	}
}
