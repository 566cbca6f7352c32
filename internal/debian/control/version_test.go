package control

import (
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{
		"1.0":             {0, "1.0", ""},
		"1.0-1":           {0, "1.0", "1"},
		"1:2.3-4-5":       {1, "2.3-4", "5"},
		"0:1.0":           {0, "1.0", ""},
		"2:1:3":           {2, "1:3", ""},
		"5.2.15-2+b7":     {0, "5.2.15", "2+b7"},
		"1.0~rc1-1~bpo12": {0, "1.0~rc1", "1~bpo12"},
		"dfsg1":           {0, "dfsg1", ""},
	} {
		got, err := ParseVersion(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		again, err := ParseVersion(got.String())
		if err != nil || again != got {
			t.Errorf("%s is written as %s, which reads as %+v, %v", text, got, again, err)
		}
	}
	for _, bad := range []string{"", " ", "1 2", "1_2", "a:1", ":1", "-1:1", "4294967296:1", "1:", "1-", "-", "-1", "1:-1", "1.0-a:b", "1\n", "é"} {
		if v, err := ParseVersion(bad); err == nil {
			t.Errorf("%q reads as %+v", bad, v)
		}
	}
}

// sorted are versions in order, each later than the one before.
var sorted = []string{
	"~~", "~~a", "~", "0~", "0", "1.0~beta1~svn1245", "1.0~beta1", "1.0~~", "1.0", "1.0-1~", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-2",
	"1.0+dfsg-1", "1.0.1", "1.0.10", "1.1", "1.1a", "1.1+", "1.2", "1.10", "1.20", "a", "aa", "b", "+", "1:0", "2:0~1", "2:0",
}

func TestVersionOrder(t *testing.T) {
	dpkg := tooltest.Require(t, "dpkg", "dpkg")
	versions := make([]Version, len(sorted))
	for i, s := range sorted {
		v, err := ParseVersion(s)
		if err != nil {
			t.Fatal(err)
		}
		versions[i] = v
	}
	// The table is what dpkg says, not what its author believed.
	slices.SortStableFunc(versions, func(a, b Version) int { return dpkgCompare(t, dpkg, a.String(), b.String()) })
	for i, a := range versions {
		for j, b := range versions {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%s against %s: %d, dpkg sorts them %d", a, b, got, want)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.0-0"}, {"1.0", "0:1.0"}, {"1.00", "1.0"}, {"01-01", "1-1"}, {"1.0-000", "1.0"}, {"1.a0", "1.a"}} {
		a, _ := ParseVersion(same[0])
		b, _ := ParseVersion(same[1])
		if a.Compare(b) != 0 {
			t.Errorf("%s and %s differ", a, b)
		}
	}
}

func dpkgCompare(t *testing.T, dpkg, a, b string) int {
	t.Helper()
	for op, result := range map[string]int{"lt": -1, "gt": 1} {
		err := exec.Command(dpkg, "--compare-versions", a, op, b).Run()
		if err == nil {
			return result
		}
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
			t.Fatalf("dpkg --compare-versions %s %s %s: %v", a, op, b, err)
		}
	}
	return 0
}

// TestVersionsLikeDpkg compares random pairs, made of few characters so that
// they share long beginnings.
func TestVersionsLikeDpkg(t *testing.T) {
	dpkg := tooltest.Require(t, "dpkg", "dpkg")
	rnd := rand.New(rand.NewPCG(5, 6))
	word := func(alphabet string) string {
		var b strings.Builder
		for range 1 + rnd.IntN(5) {
			b.WriteByte(alphabet[rnd.IntN(len(alphabet))])
		}
		return b.String()
	}
	make1 := func() string {
		s := "1" + word("019a~+.-")
		s = strings.TrimRight(s, "-")
		if rnd.IntN(2) == 0 {
			s += "-" + word("01b~+.")
		}
		if rnd.IntN(8) == 0 {
			s = word("01") + ":" + s
		}
		return s
	}
	for range 300 {
		a, b := make1(), make1()
		va, errA := ParseVersion(a)
		vb, errB := ParseVersion(b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if got, want := va.Compare(vb), dpkgCompare(t, dpkg, a, b); got != want {
			t.Errorf("%s against %s: %d, dpkg says %d", a, b, got, want)
		}
	}
}

func FuzzVersion(f *testing.F) {
	f.Add("1.0", "1.0~rc1", "1:1.0-1")
	f.Add("0", "00-0", "0:0")
	f.Add("1.a0", "1.a", "1.a+")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		va, err := ParseVersion(a)
		if err != nil {
			return
		}
		if again, err := ParseVersion(va.String()); err != nil || again != va {
			t.Fatalf("%q is written as %q", a, va)
		}
		if va.Compare(va) != 0 {
			t.Fatalf("%q differs from itself", a)
		}
		vb, err := ParseVersion(b)
		if err != nil {
			return
		}
		if va.Compare(vb) != -vb.Compare(va) {
			t.Fatalf("%q and %q: not antisymmetric", a, b)
		}
		vc, err := ParseVersion(c)
		if err != nil {
			return
		}
		vs := []Version{va, vb, vc}
		slices.SortFunc(vs, Version.Compare)
		if vs[0].Compare(vs[1]) > 0 || vs[1].Compare(vs[2]) > 0 || vs[0].Compare(vs[2]) > 0 {
			t.Fatalf("%q, %q, %q: not transitive", a, b, c)
		}
	})
}
