// Package control reads what Debian writes about packages: deb822 paragraphs,
// version numbers, relations between packages, and Packages indexes.
//
// Subset: paragraphs as in deb-control files, Packages, Release and apt's
// .sources files; binary relations with alternatives, versions, architecture
// qualifiers and restrictions, and build profiles. Deliberately absent: PGP
// armour (the archive client strips it after it verified it), substitution
// variables, and any writing beyond a paragraph's own bytes.
//
// Everything here reads foreign bytes: lines, paragraphs and counts are
// bounded, and memory is proportional to what is kept.
//
// Specifications: https://www.debian.org/doc/debian-policy/ch-controlfields.html,
// https://www.debian.org/doc/debian-policy/ch-relationships.html, deb822(5),
// deb-version(7), https://wiki.debian.org/Multiarch/Implementation.
//
//	list, err := control.ParsePackages(r, nil)
//	for _, p := range list {
//		deps, err := p.Relations(control.Depends)
//		…
//	}
package control
