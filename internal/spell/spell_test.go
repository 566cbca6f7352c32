package spell

import "testing"

func TestNearest(t *testing.T) {
	verbs := []string{"run", "build", "doctor", "explain", "cache"}
	for word, want := range map[string]string{
		"rnu": "run", "buidl": "build", "bild": "build", "docter": "doctor",
		"explian": "explain", "xyzzy": "", "": "", "cahce": "cache", "RUN": "", "bulk": "", "ron": "run",
	} {
		if got := Nearest(word, verbs); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"größe", "grösse", 2}} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := Distance(c.b, c.a); got != c.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}
