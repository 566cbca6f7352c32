package lazy

import "testing"

func TestRegexp(t *testing.T) {
	digits, wrong := Regexp(`^[0-9]+$`), Regexp(`(`)
	if first, second := digits(), digits(); !first.MatchString("12") || first != second {
		t.Error("not one expression")
	}
	defer func() {
		if recover() == nil {
			t.Error("a wrong expression is taken")
		}
	}()
	wrong()
}
