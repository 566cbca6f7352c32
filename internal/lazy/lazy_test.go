package lazy

import "testing"

func TestRegexp(t *testing.T) {
	digits, wrong := Regexp(`^[0-9]+$`), Regexp(`(`)
	if !digits().MatchString("12") || digits() != digits() {
		t.Error("not one expression")
	}
	defer func() {
		if recover() == nil {
			t.Error("a wrong expression is taken")
		}
	}()
	wrong()
}
