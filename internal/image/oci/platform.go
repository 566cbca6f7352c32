package oci

import (
	"fmt"
	"slices"
	"strings"
)

// platform is what an image runs on, in Go's words.
type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

func (p platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// platforms are those that run a Debian architecture's programs, the best first.
// The first is what an image of ours says.
var platforms = []struct {
	arch string
	can  []platform
}{
	{"amd64", []platform{{"amd64", "linux", ""}, {"amd64", "linux", "v1"}}},
	{"i386", []platform{{"386", "linux", ""}}},
	{"arm64", []platform{{"arm64", "linux", "v8"}, {"arm64", "linux", ""}}},
	{"armhf", []platform{{"arm", "linux", "v7"}, {"arm", "linux", "v6"}, {"arm", "linux", ""}}},
	{"armel", []platform{{"arm", "linux", "v5"}, {"arm", "linux", ""}}},
	{"riscv64", []platform{{"riscv64", "linux", ""}}},
	{"ppc64el", []platform{{"ppc64le", "linux", ""}}},
	{"s390x", []platform{{"s390x", "linux", ""}}},
	{"mips64el", []platform{{"mips64le", "linux", ""}}},
	{"loong64", []platform{{"loong64", "linux", ""}}},
}

// platformsOf gives the platforms for a Debian architecture.
func platformsOf(arch string) ([]platform, error) {
	var known []string
	for _, p := range platforms {
		if p.arch == arch {
			return p.can, nil
		}
		known = append(known, p.arch)
	}
	return nil, fmt.Errorf("architecture %q is none of %s", arch, strings.Join(known, ", "))
}

// debianArch names a platform as Debian does, or as it names itself.
func debianArch(p platform) string {
	for _, k := range platforms {
		if slices.Contains(k.can, p) {
			return k.arch
		}
	}
	return p.String()
}

// PlatformError says that an image is not there for the architecture that is
// wanted.
type PlatformError struct {
	Image string   // as it was named
	Want  string   // Debian's name of the architecture
	Have  []string // those there are
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("%s has no image for %s, only for %s; %s", e.Image, e.Want, strings.Join(e.Have, ", "), e.Fix())
}

// Fix is what a person can do.
func (e *PlatformError) Fix() string {
	return "set arch to one of those, or take another image"
}

// AmbiguousError says that a layout has several images and nothing says which.
type AmbiguousError struct {
	Image string
	Have  []string // references, or digests where they have none
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s holds several images: %s; %s", e.Image, strings.Join(e.Have, ", "), e.Fix())
}

// Fix is what a person can do.
func (e *AmbiguousError) Fix() string { return "name one of them, by its reference or digest" }

// candidate is one image out of an index.
type candidate struct {
	descriptor
	ref string // the reference name that the layout gives it; may be empty
}

func (c *candidate) name() string {
	if c.ref != "" {
		return c.ref
	}
	return c.Digest
}

// choose takes the best of what an index has for arch, or the only one where
// arch is empty. know tells the platform of an image whose descriptor doesn't.
func choose(image, arch string, all []candidate, know func(descriptor) (platform, error)) (*candidate, error) {
	var can []platform
	if arch != "" {
		var err error
		if can, err = platformsOf(arch); err != nil {
			return nil, err
		}
	}
	best := len(can)
	var fit []*candidate
	var have []string
	for i := range all {
		c := &all[i]
		rank := 0
		if arch != "" {
			if c.Platform == nil {
				p, err := know(c.descriptor)
				if err != nil {
					return nil, err
				}
				c.Platform = &p
			}
			p := *c.Platform
			have = append(have, debianArch(p))
			if rank = slices.Index(can, platform{p.Architecture, p.OS, p.Variant}); rank < 0 || rank > best {
				continue
			}
		}
		if rank < best {
			fit = fit[:0]
		}
		best = rank
		if !slices.ContainsFunc(fit, func(f *candidate) bool { return f.Digest == c.Digest }) {
			fit = append(fit, c)
		}
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("%s holds no image", image)
	case len(fit) == 0:
		slices.Sort(have)
		return nil, &PlatformError{image, arch, slices.Compact(have)}
	case len(fit) > 1:
		e := &AmbiguousError{Image: image}
		for _, c := range fit {
			e.Have = append(e.Have, c.name())
		}
		return nil, e
	}
	return fit[0], nil
}
