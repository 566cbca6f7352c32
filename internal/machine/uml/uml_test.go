package uml

import (
	"errors"
	"strings"
	"testing"

	"wolffia/internal/machine"
	"wolffia/internal/machine/keeper"
	"wolffia/internal/machine/machinetest"
)

func TestMain(m *testing.M) { machinetest.Main(m, Backend{}) }

func TestConformance(t *testing.T) {
	f := machinetest.UML(t)
	for _, mode := range []keeper.Mode{keeper.Namespace, keeper.Subreaper} {
		t.Run(string(mode), func(t *testing.T) { machinetest.Run(t, Backend{Hold: mode}, f) })
	}
}

func TestShares(t *testing.T) { machinetest.Shares(t, Backend{}, machinetest.UML(t)) }

// Nothing would hold a guest within a shared folder where there are no
// namespaces.
func TestSharesNeedNamespaces(t *testing.T) {
	f := machinetest.UML(t)
	_, err := Backend{Hold: keeper.Subreaper}.Start(t.Context(), machine.Spec{
		Name: "open", Kernel: f.Kernel, Dir: t.TempDir(), Initramfs: []string{f.Initramfs(t, "poweroff -f")},
		Shares: []machine.Share{{Tag: "src", Path: t.TempDir()}},
	})
	var e *machine.StartError
	if !errors.As(err, &e) || e.Stage != "start" || !strings.Contains(e.Fix, "qemu") {
		t.Errorf("%v", err)
	}
}
