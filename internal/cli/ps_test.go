package cli

import (
	"slices"
	"testing"

	"wolffia/internal/api"
)

// TestNamesakes: labs of the same name could not be told apart.
func TestNamesakes(t *testing.T) {
	lab := func(name, file string) labStatus { return labStatus{Info: api.Info{Name: name, File: file}} }
	got := namesakes([]labStatus{lab("lab", "/a/wolffia.yaml"), lab("pair", "/c/wolffia.yaml"), lab("lab", "/b/wolffia.yaml")})
	if want := []string{"labs called lab, in this order: /a/wolffia.yaml, /b/wolffia.yaml; name one with -f"}; !slices.Equal(got, want) {
		t.Error(got)
	}
}
