package supervisor

import (
	"testing"

	"wolffia/internal/lab"
)

func TestPlugName(t *testing.T) {
	all := []lab.Plug{{Path: "./lan.vde"}, {Path: "/run/a/ctl"}, {Path: "/run/b/ctl"}}
	for path, want := range map[string]string{"./lan.vde": "lan.vde", "/run/a/ctl": "/run/a/ctl", "/run/b/ctl": "/run/b/ctl"} {
		if got := plugName(lab.Plug{Path: path}, all); got != want {
			t.Errorf("%s is called %s, want %s", path, got, want)
		}
	}
}
