package resolve

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/debian/control"
)

// parse makes an index of lines "name version[ arch] ; Field: value ; …".
func parse(t testing.TB, lines ...string) *Index {
	t.Helper()
	var text strings.Builder
	for _, line := range lines {
		head, fields, _ := strings.Cut(line, ";")
		f := append(strings.Fields(head), "amd64")
		fmt.Fprintf(&text, "Package: %s\nVersion: %s\nArchitecture: %s\n", f[0], f[1], f[2])
		for field := range strings.SplitSeq(fields, ";") {
			if field = strings.TrimSpace(field); field != "" {
				text.WriteString(field + "\n")
			}
		}
		text.WriteString("\n")
	}
	list, err := control.ParsePackages(strings.NewReader(text.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return NewIndex(list)
}

func wants(t testing.TB, words string) (list []Want) {
	t.Helper()
	for word := range strings.FieldsSeq(words) {
		w, err := ParseWant(word)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, w)
	}
	return list
}

func short(sol *Solution, native string) string {
	var out []string
	for _, p := range sol.Packages {
		text := p.Name
		if p.Architecture != native && p.Architecture != "all" {
			text += ":" + p.Architecture
		}
		out = append(out, text+"="+p.Version.String())
	}
	return strings.Join(out, " ")
}

func TestResolve(t *testing.T) {
	for _, test := range []struct {
		name    string
		archive []string
		want    string
		req     Request
		result  string // packages in order
		err     string
	}{
		{
			name:    "order is by dependency, then name",
			archive: []string{"z 1", "a 1; Depends: m, z", "m 1; Depends: z", "b 1"},
			want:    "a b", result: "b=1 z=1 m=1 a=1",
		}, {
			name:    "pre-depends come first within a cycle",
			archive: []string{"a 1; Depends: b", "b 1; Pre-Depends: c", "c 1; Depends: a"},
			want:    "a", result: "a=1 c=1 b=1",
		}, {
			name:    "the highest version of all lists",
			archive: []string{"a 1", "a 1:0.5", "a 2"},
			want:    "a", result: "a=1:0.5",
		}, {
			name:    "an exact version",
			archive: []string{"a 1; Depends: lib (= 1)", "a 2; Depends: lib (= 2)", "lib 2", "lib 1"},
			want:    "a=1", result: "lib=1 a=1",
		}, {
			name:    "an older version when a conflict leaves no other",
			archive: []string{"a 1; Depends: lib", "lib 2; Conflicts: b", "lib 1", "b 1"},
			want:    "a b", result: "b=1 lib=1 a=1",
		}, {
			name:    "another alternative before an older version",
			archive: []string{"a 1; Depends: lib | other", "lib 2; Conflicts: b", "lib 1", "other 1", "b 1"},
			want:    "a b", result: "b=1 other=1 a=1",
		}, {
			name:    "the first alternative",
			archive: []string{"a 1; Depends: x | y", "x 1", "y 1"},
			want:    "a", result: "x=1 a=1",
		}, {
			name:    "the alternative that is wanted anyway",
			archive: []string{"a 1; Depends: x | y", "x 1", "y 1"},
			want:    "a y", result: "y=1 a=1",
		}, {
			name:    "the alternative that something else needs",
			archive: []string{"a 1; Depends: x | y, b", "x 1", "y 1", "b 1; Depends: y"},
			want:    "a", result: "y=1 b=1 a=1",
		}, {
			name:    "an alternative whose own dependency is missing",
			archive: []string{"a 1; Depends: x | y", "x 1; Depends: nowhere", "y 1"},
			want:    "a", result: "y=1 a=1",
		}, {
			name:    "a real package before a provider",
			archive: []string{"a 1; Depends: mta", "exim 1; Provides: mta; Priority: required", "mta 1"},
			want:    "a", result: "mta=1 a=1",
		}, {
			name:    "providers by priority, then name",
			archive: []string{"a 1; Depends: mta", "exim 1; Provides: mta; Priority: optional", "zmail 1; Provides: mta; Priority: standard", "cmail 1; Provides: mta"},
			want:    "a", result: "zmail=1 a=1",
		}, {
			name:    "versioned provides",
			archive: []string{"a 1; Depends: api (>= 3)", "old 9; Provides: api (= 2)", "none 9; Provides: api", "new 1; Provides: api (= 3.1)"},
			want:    "a", result: "new=1 a=1",
		}, {
			name:    "a package does not conflict with what itself provides",
			archive: []string{"exim 1; Provides: mta; Conflicts: mta"},
			want:    "exim", result: "exim=1",
		}, {
			name:    "what breaks is avoided",
			archive: []string{"a 1; Depends: x | y; Breaks: x (<< 2)", "x 1", "y 1"},
			want:    "a", result: "y=1 a=1",
		}, {
			name:    "a deep conflict is backed out of",
			archive: []string{"a 1; Depends: p | q, r", "p 1; Depends: p1", "p1 1; Depends: p2", "p2 1; Conflicts: s", "q 1", "r 1; Depends: s | t", "s 1", "t 1; Conflicts: s", "b 1; Depends: s"},
			want:    "a b", result: "q=1 s=1 b=1 r=1 a=1",
		}, {
			name:    "folded relations, restrictions and profiles",
			archive: []string{"a 1; Depends: x [i386], y [amd64], z <stage1>, w <!stage1>", "y 1", "w 1"},
			want:    "a", result: "w=1 y=1 a=1",
		}, {
			name:    "an excluded package counts as met",
			archive: []string{"a 1; Depends: debconf, x | y", "debconf 1; Depends: perl", "perl 1", "x 1", "y 1"},
			want:    "a", req: Request{Exclude: []string{"debconf", "x"}}, result: "y=1 a=1",
		}, {
			name:    "essential packages",
			archive: []string{"a 1", "sh 1; Essential: yes; Pre-Depends: libc", "libc 1", "init 1; Priority: required"},
			want:    "a", req: Request{Essential: true}, result: "a=1 libc=1 sh=1",
		}, {
			name:    "required packages",
			archive: []string{"a 1", "init 1; Priority: required"},
			want:    "a", req: Request{Required: true}, result: "a=1 init=1",
		}, {
			name:    "recommends as far as they can be had",
			archive: []string{"a 1; Recommends: nowhere, x | y; Conflicts: x", "x 1", "y 1; Recommends: z", "z 1"},
			want:    "a", req: Request{Recommends: true}, result: "a=1 y=1 z=1",
		}, {
			name:    "foreign: the own architecture's library",
			archive: []string{"a 1 arm64; Depends: lib", "lib 1 arm64; Multi-Arch: same", "lib 1 amd64; Multi-Arch: same"},
			want:    "a:arm64 lib", req: Request{Foreign: []string{"arm64"}}, result: "lib=1 lib:arm64=1 a:arm64=1",
		}, {
			name:    "foreign: a tool of any architecture, native first",
			archive: []string{"a 1 arm64; Depends: tool", "tool 1 amd64; Multi-Arch: foreign"},
			want:    "a:arm64", req: Request{Foreign: []string{"arm64"}}, result: "tool=1 a:arm64=1",
		}, {
			name:    "foreign: any",
			archive: []string{"a 1 arm64; Depends: python:any", "python 1 amd64; Multi-Arch: allowed"},
			want:    "a:arm64", req: Request{Foreign: []string{"arm64"}}, result: "python=1 a:arm64=1",
		}, {
			name:    "foreign: allowed alone is not enough",
			archive: []string{"a 1 arm64; Depends: python", "python 1 amd64; Multi-Arch: allowed"},
			want:    "a:arm64", req: Request{Foreign: []string{"arm64"}},
			err: "a:arm64 1 needs python, but the archive has python 1",
		}, {
			name:    "foreign: siblings of different versions",
			archive: []string{"a 1; Depends: lib", "b 1 arm64; Depends: lib", "lib 2 arm64; Multi-Arch: same", "lib 1 amd64; Multi-Arch: same"},
			want:    "a b:arm64", req: Request{Foreign: []string{"arm64"}},
			err: "lib:arm64 2 can't be there together",
		}, {
			name:    "an architecture that is not asked for does not count",
			archive: []string{"a 1; Depends: lib", "lib 1 arm64"},
			want:    "a", err: "a 1 needs lib, but the archive has lib only for arm64",
		}, {
			name:    "missing: the version",
			archive: []string{"top 1; Depends: foo", "foo 1.0; Depends: bar (>= 2)", "bar 1.0"},
			want:    "top", err: "no set of packages meets the request: foo 1.0 needs bar (>= 2), but the archive has bar 1.0 (top -> foo)",
		}, {
			name:    "missing: altogether",
			archive: []string{"foo 1.0; Depends: bar | baz"},
			want:    "foo", err: "foo 1.0 needs bar | baz, but the archive has no bar and no baz",
		}, {
			name:    "conflict of two wants",
			archive: []string{"a 1; Depends: c", "b 2; Conflicts: c (<< 2)", "c 1.5"},
			want:    "a b", err: "b 2 conflicts with c 1.5",
		}, {
			name:    "relations that can't be read",
			archive: []string{"a 1; Depends: b", "b 1; Depends: (("},
			want:    "a", err: "b 1 can't be used",
		}, {
			name:    "not found",
			archive: []string{"busybox-static 1", "bash 1"},
			want:    "busybox-statik", err: "package busybox-statik is not in the archive; did you mean busybox-static?",
		}, {
			name:    "no such version",
			archive: []string{"bash 5"},
			want:    "bash=6", err: "package bash=6 is not in the archive, which has bash 5 (amd64)",
		}, {
			name:    "wanted and excluded",
			archive: []string{"bash 5"},
			want:    "bash", req: Request{Exclude: []string{"bash"}}, err: "both wanted and excluded",
		}, {
			name:    "an architecture that is not there",
			archive: []string{"bash 5"},
			want:    "bash:armhf", err: "neither native (amd64) nor foreign",
		}, {
			name:    "self dependency",
			archive: []string{"a 1; Depends: a, v; Provides: v"},
			want:    "a", result: "a=1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			idx := parse(t, test.archive...)
			req := test.req
			req.Native, req.Want = "amd64", wants(t, test.want)
			sol, err := Resolve(idx, req)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got error %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := short(sol, "amd64"); got != test.result {
				t.Errorf("got %s, want %s", got, test.result)
			}
		})
	}
}

func TestReasons(t *testing.T) {
	idx := parse(t, "a 1; Depends: b | x", "b 1; Pre-Depends: c (>= 1)", "c 1", "d 1; Depends: c", "q 1; Depends: gone", "gone 1")
	sol, err := Resolve(idx, Request{Native: "amd64", Want: wants(t, "a d q"), Exclude: []string{"gone"}})
	if err != nil {
		t.Fatal(err)
	}
	why := map[string]string{}
	for _, p := range sol.Packages {
		why[p.Name] = p.Why.String()
	}
	for name, want := range map[string]string{"a": "a was asked for", "b": "a depends on b | x", "c": "d depends on c"} {
		if why[name] != want {
			t.Errorf("%s: %s, want %s", name, why[name], want)
		}
	}
	chain := sol.Chain("b")
	if len(chain) != 2 || chain[0].Name != "a" || chain[1].Name != "b" {
		t.Errorf("chain %v", chain)
	}
	if len(sol.Unmet) != 1 || sol.Unmet[0].By.Name != "q" || sol.Unmet[0].Relation != "gone" {
		t.Errorf("unmet: %v", sol.Unmet)
	}
	_, err = Resolve(idx, Request{Native: "amd64", Want: wants(t, "nothing-like-it")})
	var missing *NotFoundError
	if !errors.As(err, &missing) || missing.Name != "nothing-like-it" || missing.Nearest != nil {
		t.Errorf("%v", err)
	}
}

func TestParseWant(t *testing.T) {
	for text, want := range map[string]string{
		"bash": "bash", "bash=1:2-3": "bash=1:2-3", "libc6:arm64": "libc6:arm64", " libc6:arm64=2.36 ": "libc6:arm64=2.36",
		"bash (>= 5)": "bash (>= 5)", "bash (= 5)": "bash=5",
	} {
		w, err := ParseWant(text)
		if err != nil || w.String() != want {
			t.Errorf("%s: %v, %v", text, w, err)
		}
	}
	for _, bad := range []string{"", "a b", "a|b", "a,b", "a=", "a=1_2", "../a", "a [amd64]", "=1", "a:"} {
		if w, err := ParseWant(bad); err == nil {
			t.Errorf("%q: %v", bad, w)
		}
	}
}

func TestMerge(t *testing.T) {
	list := func(text string) []*control.Package {
		l, err := control.ParsePackages(strings.NewReader(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	main := list("Package: a\nVersion: 1\nArchitecture: all\nFilename: main\n\nPackage: b\nVersion: 1\nArchitecture: amd64\n")
	security := list("Package: a\nVersion: 1\nArchitecture: all\nFilename: security\n\nPackage: b\nVersion: 1+deb1\nArchitecture: amd64\n")
	idx := NewIndex(main, security)
	if a := idx.Lookup("a"); len(a) != 1 || a[0].Filename != "main" {
		t.Errorf("a: %v", a)
	}
	if b := idx.Lookup("b"); len(b) != 2 || b[0].Version.String() != "1+deb1" {
		t.Errorf("b: %v", b)
	}
}

// TestAgainstBruteForce compares small random archives with trying all sets:
// the search finds a solution just when there is one, and it is sound.
func TestAgainstBruteForce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	solvable := 0
	for range 1000 {
		var lines []string
		names := []string{"a", "b", "c", "d", "e", "f"}
		group := func() string {
			var alternatives []string
			for range 1 + rnd.IntN(3) {
				alternatives = append(alternatives, names[rnd.IntN(6)]+[]string{"", "", " (>= 2)", " (<< 2)"}[rnd.IntN(4)])
			}
			return strings.Join(alternatives, " | ")
		}
		for _, name := range names {
			for version := 1; version <= 1+rnd.IntN(2); version++ {
				line := fmt.Sprintf("%s %d; Depends: %s", name, version, group())
				for range rnd.IntN(2) {
					line += ", " + group()
				}
				if rnd.IntN(2) == 0 {
					line += "; Conflicts: " + names[rnd.IntN(6)] + []string{"", " (= 1)"}[rnd.IntN(2)]
				}
				if rnd.IntN(4) == 0 {
					line += "; Provides: " + names[rnd.IntN(6)] + []string{"", " (= 2)"}[rnd.IntN(2)]
				}
				lines = append(lines, line)
			}
		}
		idx := parse(t, lines...)
		req := Request{Native: "amd64", Want: wants(t, "a b")}
		sol, err := Resolve(idx, req)
		var unsat *UnsatisfiableError
		if err != nil && !errors.As(err, &unsat) {
			t.Fatal(err)
		}
		if err == nil {
			solvable++
			checkSound(t, sol)
		} else if set := bruteForce(idx); set != nil {
			t.Errorf("no solution found (%v), but this is one: %v", err, set)
		} else if len(unsat.Causes) == 0 {
			t.Error("an error without causes")
		}
		if t.Failed() {
			t.Fatalf("archive:\n%s", strings.Join(lines, "\n"))
		}
	}
	if solvable < 100 || solvable > 900 {
		t.Errorf("%d of 1000 archives have a solution: the test tests little", solvable)
	}
}

// bruteForce finds a set that holds a and b and breaks no rule.
func bruteForce(idx *Index) []*control.Package {
	var all []*control.Package
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		all = append(all, idx.Lookup(name)...)
	}
	v := view{idx: idx, native: "amd64", rank: map[string]int{"amd64": 0}}
sets:
	for bits := range 1 << len(all) {
		var set []*control.Package
		for i, p := range all {
			if bits>>i&1 == 1 {
				set = append(set, p)
			}
		}
		has := func(p *control.Package) bool { return slices.Contains(set, p) }
		for _, name := range []string{"a", "b"} {
			if !slices.ContainsFunc(idx.Lookup(name), has) {
				continue sets
			}
		}
		for _, p := range set {
			deps, _ := p.Relations(control.Depends)
			for _, group := range deps {
				if found, _ := v.candidates("amd64", group); !slices.ContainsFunc(found, has) {
					continue sets
				}
			}
			conflicts, _ := p.Relations(control.Conflicts)
			for _, group := range conflicts {
				if slices.ContainsFunc(v.conflicting(p, &group[0]), has) {
					continue sets
				}
			}
			if slices.ContainsFunc(v.exclusive(p), has) {
				continue sets
			}
		}
		return set
	}
	return nil
}
