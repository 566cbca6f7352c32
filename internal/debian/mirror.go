package debian

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
)

// Mirror is where packages come from.
type Mirror struct {
	URI        string   // the archive's root, below which are dists/ and pool/
	Security   string   // the security archive's root; "" if there is none
	Guessed    bool     // Security was not named by anybody, only derived from URI
	Components []string // empty means main
	Keyrings   []string // files of public keys, besides Debian's own
	Keys       string   // armored public keys, besides Debian's own
	From       string   // who named it: "--mirror", "WOLFFIA_MIRROR", a file and line
}

// MirrorOptions say where [FindMirror] looks, in this order.
type MirrorOptions struct {
	Flag   string // the value of --mirror
	Env    string // the value of WOLFFIA_MIRROR
	File   string // the value of mirror: in wolffia.yaml
	AptDir string // apt's folder, usually /etc/apt; "" to leave it out
}

// NoMirrorError says that no mirror is known.
type NoMirrorError struct {
	AptDir string // the folder that was looked at; may be empty
	Why    string // what was there instead of a mirror; may be empty
	Err    error  // what was malformed; may be nil
}

func (e *NoMirrorError) Error() string {
	s := "no Debian mirror is known"
	switch {
	case e.Why != "":
		s += ": " + e.Why
	case e.AptDir != "":
		s += ": apt's sources in " + e.AptDir + " name none"
	}
	if e.Err != nil {
		s += fmt.Sprintf(" (%v)", e.Err)
	}
	return s + "; " + e.Fix()
}

func (e *NoMirrorError) Unwrap() error { return e.Err }

// Fix says what to do about it.
func (e *NoMirrorError) Fix() string {
	return "give one with --mirror URL, WOLFFIA_MIRROR=URL or mirror: URL in wolffia.yaml (https://www.debian.org/mirror/list has them all)"
}

// FindMirror finds the mirror to use: the flag's, else the environment's, else
// the file's, else that of the host's apt. Of apt's sources it takes the main
// archive of Debian, whatever release the host itself has: an archive serves
// all of them. The error is a [*NoMirrorError] where there is none.
//
// A value may name two archives, separated by a blank or a comma: the main one
// and that of the security updates. When only one is named and its path ends in
// /debian, the other is tried at /debian-security beside it.
func FindMirror(o MirrorOptions) (Mirror, error) {
	for _, given := range []struct{ value, from string }{
		{o.Flag, "--mirror"}, {o.Env, "WOLFFIA_MIRROR"}, {o.File, "mirror: in wolffia.yaml"},
	} {
		if given.value != "" {
			return parseMirror(given.value, given.from)
		}
	}
	if o.AptDir == "" {
		return Mirror{}, &NoMirrorError{}
	}
	sources, err := ReadSources(o.AptDir)
	m, why := pickMirror(sources)
	if m.URI == "" {
		return Mirror{}, &NoMirrorError{AptDir: o.AptDir, Why: why, Err: err}
	}
	return m, nil
}

func parseMirror(value, from string) (Mirror, error) {
	uris := strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
	if len(uris) == 0 || len(uris) > 2 {
		return Mirror{}, fmt.Errorf("read %s: %q is not one mirror's URL, nor two (the archive, and that of security updates)", from, value)
	}
	m := Mirror{From: from}
	for i, u := range uris {
		u, err := checkURI(u)
		if err != nil {
			return Mirror{}, fmt.Errorf("read %s: %w", from, err)
		}
		if i == 0 {
			m.URI = u
		} else {
			m.Security = u
		}
	}
	m.guessSecurity()
	return m, nil
}

// guessSecurity derives the security archive's place from the main one's.
func (m *Mirror) guessSecurity() {
	if m.Security == "" && strings.HasSuffix(m.URI, "/debian") {
		m.Security, m.Guessed = m.URI+"-security", true
	}
}

// checkURI brings a mirror's URI into the one form used here: without a slash
// at its end.
func checkURI(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("mirror: %w", err)
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return "", fmt.Errorf("mirror %q has no host name", s)
		}
	case "file":
		if !path.IsAbs(u.Path) {
			return "", fmt.Errorf("mirror %q is not an absolute path", s)
		}
	case "":
		return "", fmt.Errorf("mirror %q has no scheme: write http://, https:// or file:///", s)
	default:
		return "", fmt.Errorf("mirror %q: scheme %q is not supported: use http, https or file", u.Redacted(), u.Scheme)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("mirror %q: a mirror's URL has no ? and no #", u.Redacted())
	}
	return strings.TrimRight(s, "/"), nil
}

// releases are names of suites that belong to Debian itself. A name that is
// not here is a Debian suite if the URI or the key says so.
var releases = []string{
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
	"oldoldstable", "oldstable", "stable", "testing", "unstable", "experimental",
}

// pickMirror chooses among apt's sources; why says what stood in the way.
func pickMirror(sources []Source) (m Mirror, why string) {
	best, bestScore := Source{}, 0
	var notes []string
	for _, s := range sources {
		if isSecurity(s) || !slices.Contains(s.Components, "main") {
			continue
		}
		uri, note := resolveURI(s.URI)
		if note != "" {
			notes = append(notes, s.Where+": "+note)
		}
		score := debianness(s, uri)
		if uri != "" && score > bestScore {
			s.URI = uri
			best, bestScore = s, score
		}
	}
	if bestScore == 0 {
		return Mirror{}, strings.Join(notes, "; ")
	}
	m = Mirror{URI: best.URI, From: best.Where}
	m.addKeys(best)
	for _, s := range sources {
		if uri, _ := resolveURI(s.URI); uri != "" && isSecurity(s) && debianness(s, uri) > 0 {
			m.Security = uri
			m.addKeys(s)
			break
		}
	}
	m.guessSecurity()
	return m, ""
}

// debianness says how sure it is that a source is Debian's own archive; 0 means
// that it is something else, as the vendors' repositories that borrow a Debian
// suite's name.
func debianness(s Source, uri string) int {
	signed := strings.Contains(strings.Join(s.SignedBy, " "), "debian-archive")
	foreign := !signed && (len(s.SignedBy) > 0 || s.Key != "")
	base := path.Base(strings.TrimRight(uri, "/"))
	placed := base == "debian" || base == "debian-security"
	known := slices.Contains(releases, baseSuite(s.Suite))
	score := 0
	if signed {
		score += 8
	}
	if placed {
		score += 2
	}
	if !foreign {
		score++
	}
	switch {
	case !known && !signed && !(placed && !foreign):
		return 0 // neither the suite, the key nor the place is Debian's
	case foreign && !placed:
		return 0 // a key of their own and a place of their own
	case s.Suite == baseSuite(s.Suite):
		score++ // rather than one with only backports
	}
	return score
}

// baseSuite takes off what says which part of a release a suite is.
func baseSuite(suite string) string {
	suite, _, _ = strings.Cut(suite, "/")
	for _, end := range []string{"-updates", "-security", "-backports", "-backports-sloppy", "-proposed-updates"} {
		suite = strings.TrimSuffix(suite, end)
	}
	return suite
}

func isSecurity(s Source) bool {
	return strings.HasSuffix(s.Suite, "-security") || strings.HasSuffix(s.Suite, "/updates") ||
		path.Base(strings.TrimRight(s.URI, "/")) == "debian-security"
}

// resolveURI gives a URI that can be used, or "" and the reason. A local list
// of mirrors (mirror+file:) gives its first entry; anything that has to be
// fetched from somewhere else first is refused.
func resolveURI(uri string) (usable, note string) {
	if list, ok := strings.CutPrefix(uri, "mirror+file:"); ok {
		data, err := readBounded(path.Clean("/"+strings.TrimLeft(list, "/")), maxSourcesFile)
		if err != nil {
			return "", err.Error()
		}
		for line := range strings.Lines(string(data)) {
			line, _, _ = strings.Cut(line, "#")
			if f := strings.Fields(line); len(f) > 0 {
				return resolvePlain(f[0])
			}
		}
		return "", fmt.Sprintf("%s names no mirror", uri)
	}
	return resolvePlain(uri)
}

func resolvePlain(uri string) (usable, note string) {
	usable, err := checkURI(uri)
	if err != nil {
		return "", err.Error()
	}
	return usable, ""
}

// addKeys takes over what the host trusts for this archive. Fingerprints choose
// among keys that are known anyway, and add none.
func (m *Mirror) addKeys(s Source) {
	for _, k := range s.SignedBy {
		if path.IsAbs(k) && !slices.Contains(m.Keyrings, k) {
			m.Keyrings = append(m.Keyrings, k)
		}
	}
	if s.Key != "" && !strings.Contains(m.Keys, s.Key) {
		m.Keys += s.Key
	}
}

// components gives the components, main where none are said.
func (m *Mirror) components() []string {
	if len(m.Components) == 0 {
		return []string{"main"}
	}
	return m.Components
}

// archive names of a [Lock]: they don't say where the archive is.
const (
	archiveMain     = "debian"
	archiveSecurity = "debian-security"
)

// root gives the URI of an archive of a lock.
func (m *Mirror) root(archive string) (string, error) {
	uri := map[string]string{archiveMain: m.URI, archiveSecurity: m.Security}[archive]
	if uri == "" {
		return "", fmt.Errorf("no mirror of archive %q is known: give it as the second URL of --mirror", archive)
	}
	return uri, nil
}

// redact takes a password out of a URI, for messages.
func redact(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri
	}
	return u.Redacted()
}

// localPath gives the path that a file: URI means.
func localPath(uri string) (string, bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "file" {
		return "", false
	}
	return u.Path, true
}

// isAbsent reports whether a fetch failed because the file is not there.
func isAbsent(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return cmp.Compare(status.Code, 404) == 0 || status.Code == 410
	}
	return errors.Is(err, os.ErrNotExist)
}
