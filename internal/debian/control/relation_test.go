package control

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseRelations(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		" , ,":                          "",
		"libc6":                         "libc6",
		"libc6 (>= 2.36), bash":         "libc6 (>= 2.36), bash",
		"libc6(>=2.36),bash|dash":       "libc6 (>= 2.36), bash | dash",
		"a (<< 1)|b(<=1)|c (= 1:2-3) ,": "a (<< 1) | b (<= 1) | c (= 1:2-3)",
		"a (>> 1)":                      "a (>> 1)",
		"a (> 1), b (< 1), c (1)":       "a (>= 1), b (<= 1), c (= 1)",
		"python3:any (>= 3.11~)":        "python3:any (>= 3.11~)",
		"gcc:native, libc6:amd64":       "gcc:native, libc6:amd64",
		"a,\n b\n ,\tc":                 "a, b, c",
		"a [amd64 !i386]":               "a [amd64 !i386]",
		"a (>= 1) [linux-any] <!nocheck> <cross stage1>": "a (>= 1) [linux-any] <!nocheck> <cross stage1>",
		"a<!nodoc>":       "a <!nodoc>",
		"libstdc++6, g++": "libstdc++6, g++",
	} {
		r, err := ParseRelations(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %q, %v", text, r, err)
		}
	}
	for text, want := range map[string]string{
		"a b":                                "want a comma or a bar",
		"|":                                  "not a package name",
		"a |":                                "not a package name",
		"a | , b":                            "not a package name",
		"a (":                                "is missing",
		"a (>= )":                            "the upstream version is empty",
		"a (=> 1)":                           "not an operator",
		"a (>= 1":                            "is missing",
		"a (>= 1) (<< 2)":                    "want a comma or a bar",
		"a []":                               "is empty",
		"a [!]":                              "not a restriction",
		"a <":                                "is missing",
		"a:":                                 "not an architecture",
		"${misc:Depends}":                    "not a package name",
		"../../etc/passwd":                   "not a package name",
		strings.Repeat("a,", maxRelations+1): "more than",
	} {
		_, err := ParseRelations(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}

func TestFilter(t *testing.T) {
	const text = "everywhere, here [amd64], there [!amd64], linux [linux-any], cpu [any-amd64], test <!nocheck>, cross <cross> <stage1 !nocheck>, one [i386] | two"
	for _, test := range []struct {
		arch, profiles, want string
	}{
		{"amd64", "", "everywhere, here [amd64], linux [linux-any], cpu [any-amd64], test <!nocheck>, two"},
		{"amd64", "nocheck cross", "everywhere, here [amd64], linux [linux-any], cpu [any-amd64], cross <cross> <stage1 !nocheck>, two"},
		{"i386", "stage1", "everywhere, there [!amd64], linux [linux-any], test <!nocheck>, cross <cross> <stage1 !nocheck>, one [i386] | two"},
		{"hurd-i386", "nocheck", "everywhere, there [!amd64], two"},
	} {
		r, err := ParseRelations(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Filter(test.arch, strings.Fields(test.profiles)).String(); got != test.want {
			t.Errorf("%s, %s:\ngot  %s\nwant %s", test.arch, test.profiles, got, test.want)
		}
	}
}

func TestOperators(t *testing.T) {
	one, two := Version{Upstream: "1"}, Version{Upstream: "2"}
	for op, want := range map[Operator][3]bool{ // less, equal, greater
		AnyVersion: {true, true, true}, Earlier: {true, false, false}, EarlierEqual: {true, true, false},
		Equal: {false, true, false}, LaterEqual: {false, true, true}, Later: {false, false, true},
	} {
		if got := [3]bool{op.Holds(one, two), op.Holds(one, one), op.Holds(two, one)}; got != want {
			t.Errorf("%s: %v", op, got)
		}
	}
}

func FuzzRelations(f *testing.F) {
	f.Add("a (>= 1:2-3~) [amd64 !i386] <!x> <y z> | b:any, c")
	f.Add("a,,b\n |c")
	f.Add("a(1)")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRelations(text)
		if err != nil {
			return
		}
		again, err := ParseRelations(r.String())
		if err != nil {
			t.Fatalf("%q is written as %q: %v", text, r, err)
		}
		if len(r) > 0 && !reflect.DeepEqual(r, again) {
			t.Fatalf("%q is written as %q", text, r)
		}
		r.Filter("amd64", nil)
	})
}
