package uml

import (
	"testing"

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
