package debian

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseSourcesList(t *testing.T) {
	got, err := ParseSourcesList([]byte(`# comment
deb http://m.example/debian bookworm main contrib # and more
deb-src http://m.example/debian bookworm main
  deb	[ arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.gpg trusted=yes ]	https://m.example/debian/  trixie-updates	main
deb [arch=amd64]cdrom:[Debian 12 (x)]/ bookworm main
deb http://flat.example/ ./
nonsense
deb [ unclosed http://m.example/debian x main
deb http://m.example/debian
deb http://m.example/debian bookworm
`), "f")
	want := []Source{
		{URI: "http://m.example/debian", Suite: "bookworm", Components: []string{"main", "contrib"}, Where: "f:2"},
		{URI: "https://m.example/debian/", Suite: "trixie-updates", Components: []string{"main"}, SignedBy: []string{"/k/a.gpg", "/k/b.gpg"}, Archs: []string{"amd64", "arm64"}, Where: "f:4"},
		{URI: "cdrom:[Debian 12 (x)]/", Suite: "bookworm", Components: []string{"main"}, Archs: []string{"amd64"}, Where: "f:5"},
		{URI: "http://flat.example/", Suite: "./", Components: []string{}, Where: "f:6"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	for i, line := range []string{"f:7: type", "f:8: option list", "f:9: no suite", "f:10: no component"} {
		if err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%d: %v does not say %q", i, err, line)
		}
	}
}

func TestParseSources(t *testing.T) {
	got, err := ParseSources([]byte(`# Modernized
Types: deb deb-src
URIs: http://a.example/debian http://b.example/debian/
Suites: bookworm
 bookworm-updates
Components: main non-free
Signed-By: /k/a.gpg
# a comment within
Architectures: amd64

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main

types: deb
uris: http://c.example/debian
suites: sid
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEYyVjbRYJKwYBBAHaRw8BAQ
 -----END PGP PUBLIC KEY BLOCK-----
`), "f")
	if err != nil {
		t.Fatal(err)
	}
	base := Source{Components: []string{"main", "non-free"}, SignedBy: []string{"/k/a.gpg"}, Archs: []string{"amd64"}, Where: "f:2"}
	var want []Source
	for _, uri := range []string{"http://a.example/debian", "http://b.example/debian/"} {
		for _, suite := range []string{"bookworm", "bookworm-updates"} {
			s := base
			s.URI, s.Suite = uri, suite
			want = append(want, s)
		}
	}
	want = append(want, Source{URI: "http://c.example/debian", Suite: "sid", Components: []string{"main"}, Archs: []string{}, Where: "f:22",
		Key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEYyVjbRYJKwYBBAHaRw8BAQ\n-----END PGP PUBLIC KEY BLOCK-----\n"})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// apt writes an apt folder.
func apt(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindMirror(t *testing.T) {
	list := filepath.Join(t.TempDir(), "mirrors.list")
	os.WriteFile(list, []byte("# ours\nhttp://listed.example/debian\tpriority:1\n"), 0o644)
	for _, tc := range []struct {
		name string
		o    MirrorOptions
		apt  map[string]string
		want Mirror
		err  string
	}{
		{name: "flag before all", o: MirrorOptions{Flag: "http://f.example/x/", Env: "http://e.example/debian", File: "http://y.example"},
			want: Mirror{URI: "http://f.example/x", From: "--mirror"}},
		{name: "environment before file", o: MirrorOptions{Env: "http://e.example/debian", File: "http://y.example"},
			want: Mirror{URI: "http://e.example/debian", Security: "http://e.example/debian-security", Guessed: true, From: "WOLFFIA_MIRROR"}},
		{name: "file", o: MirrorOptions{File: "file:///srv/debian, http://s.example/sec"},
			want: Mirror{URI: "file:///srv/debian", Security: "http://s.example/sec", From: "mirror: in wolffia.yaml"}},
		{name: "bad scheme", o: MirrorOptions{Flag: "ftp://f.example/debian"}, err: `scheme "ftp" is not supported`},
		{name: "no scheme", o: MirrorOptions{Flag: "f.example/debian"}, err: "write http://"},
		{name: "mirror method", o: MirrorOptions{Flag: "mirror+http://f.example/debian"}, err: `scheme "mirror+http" is not supported`},
		{name: "three", o: MirrorOptions{Flag: "http://a http://b http://c"}, err: "is not one mirror's URL"},
		{name: "nothing", err: "no Debian mirror is known; give one with --mirror URL"},
		{name: "empty apt", apt: map[string]string{}, err: "https://www.debian.org/mirror/list"},
		{name: "one line", apt: map[string]string{"sources.list": "deb http://m.example/debian/ bookworm main\ndeb http://s.example/debian-security bookworm-security main\n"},
			want: Mirror{URI: "http://m.example/debian", Security: "http://s.example/debian-security", From: "sources.list:1"}},
		{name: "deb822", apt: map[string]string{"sources.list.d/debian.sources": "Types: deb\nURIs: https://m.example/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
			"Types: deb\nURIs: https://m.example/debian-security\nSuites: trixie-security\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"},
			want: Mirror{URI: "https://m.example/debian", Security: "https://m.example/debian-security", From: "sources.list.d/debian.sources:1",
				Keyrings: []string{"/usr/share/keyrings/debian-archive-keyring.gpg"}}},
		{name: "vendors are passed over", apt: map[string]string{
			"sources.list.d/a.list": "deb [signed-by=/k/vendor.gpg] https://pkgs.vendor.example/stable/stuff bookworm main\ndeb https://db.example/apt bookworm-pgdg main\ndeb https://docker.example/linux/debian bookworm stable\n",
			"sources.list.d/b.list": "deb http://m.example/debian bookworm-backports main\ndeb http://m2.example/debian bookworm main\n"},
			want: Mirror{URI: "http://m2.example/debian", Security: "http://m2.example/debian-security", Guessed: true, From: "sources.list.d/b.list:2"}},
		{name: "only vendors", apt: map[string]string{"sources.list": "deb https://db.example/apt bookworm-pgdg main\n"}, err: "name none"},
		{name: "ubuntu", apt: map[string]string{"sources.list": "deb http://archive.example/ubuntu noble main universe\n"}, err: "name none"},
		{name: "private copy with a key of its own", apt: map[string]string{"sources.list": "deb [signed-by=/k/ours.gpg] http://nexus.example/repository/debian bookworm main\n"},
			want: Mirror{URI: "http://nexus.example/repository/debian", Security: "http://nexus.example/repository/debian-security", Guessed: true, From: "sources.list:1", Keyrings: []string{"/k/ours.gpg"}}},
		{name: "a release of the future", apt: map[string]string{"sources.list": "deb http://m.example/debian zurg main\n"},
			want: Mirror{URI: "http://m.example/debian", Security: "http://m.example/debian-security", Guessed: true, From: "sources.list:1"}},
		{name: "list of mirrors", apt: map[string]string{"sources.list": "deb mirror+file:" + list + " bookworm main\n"},
			want: Mirror{URI: "http://listed.example/debian", Security: "http://listed.example/debian-security", Guessed: true, From: "sources.list:1"}},
		{name: "remote list of mirrors", apt: map[string]string{"sources.list": "deb mirror+http://m.example/debian bookworm main\n"}, err: `scheme "mirror+http" is not supported`},
		{name: "disc", apt: map[string]string{"sources.list": "deb cdrom:[Debian]/ bookworm main\n"}, err: "no Debian mirror is known"},
		{name: "names that apt passes over", apt: map[string]string{"sources.list.d/x.list.save": "deb http://m.example/debian bookworm main\n", "sources.list.d/a b.list": "deb http://m.example/debian bookworm main\n"}, err: "name none"},
		{name: "malformed", apt: map[string]string{"sources.list": "what\n"}, err: `type "what"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.apt != nil {
				tc.o.AptDir = apt(t, tc.apt)
			}
			got, err := FindMirror(tc.o)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v, %+v; want %q", err, got, tc.err)
				}
				return
			}
			got.From = strings.TrimPrefix(got.From, tc.o.AptDir+"/")
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v\ngot  %+v\nwant %+v", err, got, tc.want)
			}
		})
	}
	if _, err := FindMirror(MirrorOptions{AptDir: "/nonexistent"}); !errors.As(err, new(*NoMirrorError)) {
		t.Error(err)
	}
}

func TestSuitesOf(t *testing.T) {
	m := Mirror{URI: "u", Security: "s"}
	for release, want := range map[string]string{
		"trixie":           "debian/trixie debian/trixie-updates debian-security/trixie-security",
		"stable":           "debian/stable debian/stable-updates debian-security/stable-security",
		"buster":           "debian/buster debian/buster-updates debian-security/buster/updates",
		"sid":              "debian/sid",
		"experimental":     "debian/experimental debian/unstable",
		"trixie-backports": "debian/trixie debian/trixie-backports debian/trixie-updates debian-security/trixie-security",
	} {
		var got []string
		for _, s := range m.suitesOf(release) {
			got = append(got, s.archive+"/"+s.name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", release, got)
		}
	}
}

func TestPasswordsAreNotSaid(t *testing.T) {
	const secret = "http://user:secret@m.example/debian/x"
	for _, err := range []error{&StatusError{URL: secret}, &StallError{URL: secret}, &NetworkError{URL: secret, Err: errors.New("x")},
		&DigestError{URL: secret}, &SignatureError{URL: secret}, &StaleError{URL: secret}} {
		if s := err.Error(); strings.Contains(s, "secret") || !strings.Contains(s, "m.example") {
			t.Errorf("%T: %s", err, s)
		}
	}
	_, err := FindMirror(MirrorOptions{Flag: "ftp://user:secret@m.example/debian"})
	if s := fmt.Sprint(err); strings.Contains(s, "secret") {
		t.Error(s)
	}
}
