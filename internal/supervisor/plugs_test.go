package supervisor

import (
	"testing"

	"wolffia/internal/lab"
)

func TestPlugName(t *testing.T) {
	all := []lab.Plug{{Path: "./lan.vde"}, {Path: "/run/a/ctl"}, {Path: "/run/b/ctl"}, {Path: "anna/x"}, {Path: "./bert/x"}}
	for path, want := range map[string]string{"./lan.vde": "lan.vde", "/run/a/ctl": "/run/a/ctl", "/run/b/ctl": "/run/b/ctl", "anna/x": "./anna/x", "./bert/x": "./bert/x"} {
		if got := plugName(lab.Plug{Path: path}, all); got != want {
			t.Errorf("%s is called %s, want %s", path, got, want)
		}
	}
}
