package lab

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"wolffia/internal/lazy"
)

// Base is what an image starts from, besides Debian's packages. At most one of
// the fields is set.
type Base struct {
	Image     string // another image of the file, whose keys count here too
	Path      string // on the host: a folder, an archive, a file system, a disk or an OCI image
	Reference string // an image of a registry
}

// IsZero reports whether the image starts from nothing.
func (b Base) IsZero() bool { return b == Base{} }

// String writes the base as [ParseBase] reads it.
func (b Base) String() string { return b.Image + b.Path + b.Reference }

// reference is how an image of a registry is named: HOST:PORT/PATH:TAG@DIGEST.
var reference = lazy.Regexp(`^([A-Za-z0-9.-]+(:[0-9]{1,5})?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)

// ParseBase reads what an image starts from: a plain word is another image of
// the file; what begins with a dot, a slash or a tilde is on the host; all else,
// such as debian:trixie or localhost:5000/tools, is an image of a registry.
func ParseBase(s string) (Base, error) {
	bare, registry := strings.CutPrefix(s, "docker://")
	switch {
	case s == "" || len(s) > 4000 || strings.ContainsAny(s, "\x00\n"):
		return Base{}, fmt.Errorf("from: %.40q is nothing that an image could start from", s)
	case !registry && strings.Trim(s, ".") == "":
		return Base{Path: s}, nil
	case !registry && (strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") || filepath.IsAbs(s) || strings.HasPrefix(s, "~/")):
		return Base{Path: s}, nil
	case !registry && checkName("image", s) == nil:
		return Base{Image: s}, nil
	case reference().MatchString(bare) && (registry || strings.ContainsAny(s, ":/@")):
		return Base{Reference: bare}, nil
	}
	return Base{}, fmt.Errorf("from: %q is no image of this file, no path such as ./root.tar, and no image of a registry such as debian:trixie", s)
}

// inherit gives every image that starts from another one that one's keys, and
// then its own over them: lists are joined.
func (s *Spec) inherit(at *places) {
	done := map[string]bool{}
	for _, name := range s.ImageNames() {
		s.inheritOne(name, nil, done, at)
	}
}

func (s *Spec) inheritOne(name string, below []string, done map[string]bool, at *places) {
	img := s.Images[name]
	parent := img.From.Image
	if done[name] || parent == "" {
		done[name] = true
		return
	}
	path := []string{"images", name, "from"}
	below = append(below, name)
	switch {
	case s.Images[parent] == nil:
		at.fail(path, 0, "%s; an image of a registry has a tag, such as %s:latest, and a path begins with ./", OneOf("image", parent, s.ImageNames()), parent)
	case slices.Contains(below, parent):
		circle := append(below[slices.Index(below, parent):], parent)
		at.fail(path, 0, "image %q starts from itself: %s", parent, strings.Join(circle, ", from "))
	default:
		s.inheritOne(parent, below, done, at)
		s.Images[name] = img.over(s.Images[parent], at)
	}
	done[name] = true
}

// over gives the image with the keys of parent below its own.
func (i *Image) over(parent *Image, at *places) *Image {
	out := *parent
	out.Name = i.Name
	out.Packages, out.Files, out.Users, out.Groups, out.Services = nil, nil, nil, nil, nil
	// Once more, over what the parent has. There is nothing wrong with it, or
	// this would not be reached.
	object(at.d, at.node("images", i.Name), "image", imageKeys(), &out)
	out.From = parent.From
	for _, p := range parent.Packages {
		if !slices.ContainsFunc(out.Packages, func(q string) bool { return samePackage(p, q) }) {
			out.Packages = append(out.Packages, p)
		}
	}
	out.Files = append(slices.Clone(parent.Files), out.Files...)
	out.Users = append(slices.Clone(parent.Users), out.Users...)
	out.Groups = append(slices.Clone(parent.Groups), out.Groups...)
	for _, service := range slices.Backward(parent.Services) {
		if !slices.Contains(out.Services, service) {
			out.Services = slices.Insert(out.Services, 0, service)
		}
	}
	return &out
}

// samePackage reports whether two wishes are for the same package, whatever
// versions they name.
func samePackage(a, b string) bool {
	a, _, _ = strings.Cut(a, "=")
	b, _, _ = strings.Cut(b, "=")
	return a == b
}
