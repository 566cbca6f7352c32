// Package resolve finds the packages that a wish for some of them entails, by
// the rules of Debian: versions, alternatives, versioned Provides and virtual
// packages, Pre-Depends, Conflicts, Breaks, and Multi-Arch.
//
// It starts from nothing installed and wants a closed, conflict-free set. The
// rules are clauses of propositional logic, made as packages come into view,
// and a search that learns from conflicts decides them, so a solution is found
// if there is one. Choices are tried in apt's order: alternatives as they are
// written, a real package before those that provide its name, of several
// providers the essential, native and higher-priority one, and the highest
// version first. Unlike apt's classic resolver, all that has no choice is
// taken first, so a package that is needed anyway settles an alternative.
// The result depends on the input alone, never on the order of a map.
//
// Deliberately absent: upgrades and removals, Suggests and Enhances, pins, and
// build dependencies. Like apt, but unlike dpkg, a :any dependency is also met
// by a package of the depending one's own architecture. Essential packages,
// on which no package declares a dependency, come only when Request says so:
// small images are unpacked, not installed.
//
// Specifications: https://www.debian.org/doc/debian-policy/ch-relationships.html,
// https://wiki.ubuntu.com/MultiarchSpec.
//
//	idx, err := resolve.NewIndex(main, updates, security)
//	sol, err := resolve.Resolve(idx, resolve.Request{Native: "amd64", Want: []resolve.Want{{Name: "bash"}}})
//	for _, p := range sol.Packages {
//		fmt.Println(p.ID(), p.Why)
//	}
package resolve
