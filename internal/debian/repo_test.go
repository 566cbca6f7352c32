package debian

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"wolffia/internal/store"
)

// repo is a small archive of our own in a folder: one real package, and a
// signature by a key that the test makes.
type repo struct {
	dir  string
	key  *openpgp.Entity
	ring string // file with the public key
	date time.Time

	until     time.Time // Valid-Until, if not zero
	codename  string
	hash      crypto.Hash
	extra     string // further paragraphs of Packages
	edit      func(packages string) string
	signedAt  time.Time
	packages  string // name of the index: Packages.gz if empty
	otherKeys []*openpgp.Entity
}

func newKey(t *testing.T, config *packet.Config) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("Wolffia test", "", "test@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writeRing(t *testing.T, path string, keys ...*openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// newRepo takes busybox-static from the real archive.
func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{dir: t.TempDir(), key: newKey(t, nil), date: time.Now().Add(-time.Hour), codename: "mine", hash: crypto.SHA256}
	r.ring = writeRing(t, filepath.Join(t.TempDir(), "ring.gpg"), r.key)
	st := shared(t)
	c := New(Options{Store: st, Mirror: hostMirror(t), Getenv: os.Getenv})
	lock, err := c.Resolve(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	if !c.haveDeb(&lock.Packages[0]) {
		st.Remove(kindUnpacked, unpackedKey(&lock.Packages[0]))
	}
	if err := c.Fetch(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	path, _ := st.Get(kindDeb, lock.Packages[0].Key())
	deb, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, "pool/busybox.deb", deb)
	f, ok := st.Open(kindDeb, lock.Packages[0].Key())
	if !ok {
		t.Fatal("the package is gone")
	}
	defer f.Close()
	return r
}

func (r *repo) write(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	os.MkdirAll(filepath.Dir(path), 0o755)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// publish writes the indexes and signs them.
func (r *repo) publish(t *testing.T) *repo {
	t.Helper()
	deb, err := os.ReadFile(filepath.Join(r.dir, "pool/busybox.deb"))
	if err != nil {
		t.Fatal(err)
	}
	version := busyboxVersion(t)
	packages := fmt.Sprintf("Package: busybox-static\nVersion: %s\nArchitecture: amd64\nFilename: pool/busybox.deb\nSize: %d\nSHA256: %x\n\n%s",
		version, len(deb), sha256.Sum256(deb), r.extra)
	if r.edit != nil {
		packages = r.edit(packages)
	}
	data := []byte(packages)
	name := "main/binary-amd64/Packages"
	sums := fmt.Sprintf(" %x %d %s\n", sha256.Sum256(data), len(data), name)
	r.write(t, "dists/mine/"+name, data)
	if r.packages != "Packages" {
		var z bytes.Buffer
		gz := gzip.NewWriter(&z)
		gz.Write(data)
		gz.Close()
		r.write(t, "dists/mine/"+name+".gz", z.Bytes())
		sums += fmt.Sprintf(" %x %d %s.gz\n", sha256.Sum256(z.Bytes()), z.Len(), name)
	}
	const layout = "Mon, 02 Jan 2006 15:04:05 MST"
	release := fmt.Sprintf("Origin: Test\nSuite: mine\nCodename: %s\nDate: %s\nArchitectures: amd64\nComponents: main\n", r.codename, r.date.UTC().Format(layout))
	if r.codename != "mine" {
		release = strings.Replace(release, "Suite: mine", "Suite: "+r.codename, 1)
	}
	if !r.until.IsZero() {
		release += "Valid-Until: " + r.until.UTC().Format(layout) + "\n"
	}
	r.write(t, "dists/mine/InRelease", r.sign(t, release+"SHA256:\n"+sums))
	return r
}

func busyboxVersion(t *testing.T) string {
	t.Helper()
	lock, err := New(Options{Store: shared(t), Mirror: hostMirror(t), Getenv: os.Getenv}).Resolve(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	return lock.Packages[0].Version.String()
}

func (r *repo) sign(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	keys := []*packet.PrivateKey{r.key.PrivateKey}
	for _, k := range r.otherKeys {
		keys = append(keys, k.PrivateKey)
	}
	config := &packet.Config{DefaultHash: r.hash}
	if !r.signedAt.IsZero() {
		config.Time = func() time.Time { return r.signedAt }
	}
	w, err := clearsign.EncodeMulti(&b, keys, config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (r *repo) client(st *store.Store, edit func(*Options)) *Client {
	o := Options{Store: st, Mirror: Mirror{URI: "file://" + r.dir}, Keyrings: []string{r.ring}, pause: time.Millisecond}
	if edit != nil {
		edit(&o)
	}
	return New(o)
}

var mine = Request{Release: "mine", Arch: "amd64", Packages: []string{"busybox-static"}}

func TestOwnArchive(t *testing.T) {
	r := newRepo(t)
	for _, name := range []string{"Packages", "Packages.gz"} {
		r.packages = name
		r.publish(t)
		c := r.client(openStore(t, t.TempDir()), nil)
		lock, err := c.Resolve(t.Context(), mine)
		if err != nil {
			t.Fatal(err)
		}
		u, err := c.Unpack(t.Context(), lock, UnpackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if u.Tree.Get("/usr/bin/busybox") == nil && u.Tree.Get("/bin/busybox") == nil {
			t.Error("busybox is missing")
		}
		u.Close()
	}
}

// TestSignatures: who may sign, and when.
func TestSignatures(t *testing.T) {
	now := time.Now()
	long := uint32(3600)
	old := &packet.Config{Time: func() time.Time { return now.Add(-48 * time.Hour) }, KeyLifetimeSecs: long}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, r *repo)
		opts func(*Options)
		want string // "" means success
		fix  string
	}{
		{name: "good"},
		{name: "unknown key", opts: func(o *Options) { o.Keyrings = nil }, want: "none of the known keys", fix: "--keyring"},
		{name: "key named by apt", opts: func(o *Options) { o.Mirror.Keyrings, o.Keyrings = o.Keyrings, nil }},
		{name: "keyring missing", opts: func(o *Options) { o.Keyrings = []string{"/nonexistent"} }, want: "read keyring: open /nonexistent"},
		{name: "keyring named by apt missing", opts: func(o *Options) { o.Mirror.Keyrings = []string{"/nonexistent"} }},
		{name: "expired key", make: func(t *testing.T, r *repo) {
			r.key, r.signedAt = newKey(t, old), now.Add(-48*time.Hour+time.Minute)
			writeRing(t, r.ring, r.key)
		}, want: "expired", fix: "--keyring"},
		{name: "expired key and a good one", make: func(t *testing.T, r *repo) {
			r.otherKeys = []*openpgp.Entity{r.key}
			r.key, r.signedAt = newKey(t, old), r.key.PrimaryKey.CreationTime
			writeRing(t, r.ring, append(r.otherKeys, r.key)...)
		}},
		{name: "unknown key and a good one", make: func(t *testing.T, r *repo) {
			r.otherKeys = []*openpgp.Entity{r.key}
			r.key = newKey(t, nil)
		}},
		{name: "short key", make: func(t *testing.T, r *repo) {
			r.key = newKey(t, &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 1024})
			writeRing(t, r.ring, r.key)
		}, want: "RSA key of 1024 bits", fix: "--keyring"},
		{name: "past its time", make: func(_ *testing.T, r *repo) { r.until = now.Add(-time.Minute) }, want: "valid until", fix: "--ignore-expired"},
		{name: "past its time, accepted", make: func(_ *testing.T, r *repo) { r.until = now.Add(-time.Minute) }, opts: func(o *Options) { o.AllowExpired = true }},
		{name: "from the future", make: func(_ *testing.T, r *repo) { r.date = now.Add(3 * time.Hour) }, want: "in the future", fix: "clock"},
		{name: "signed in the future", make: func(_ *testing.T, r *repo) { r.signedAt = now.Add(3 * time.Hour) }, want: "signature was made in the future", fix: "clock"},
		{name: "signed a little ahead", make: func(_ *testing.T, r *repo) { r.signedAt = now.Add(10 * time.Minute) }},
		{name: "a little ahead", make: func(_ *testing.T, r *repo) { r.date = now.Add(10 * time.Minute) }},
		{name: "another suite", make: func(_ *testing.T, r *repo) { r.codename = "yours" }, want: `suite "yours"`, fix: "--mirror"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRepo(t)
			if tc.make != nil {
				tc.make(t, r)
			}
			r.publish(t)
			_, err := r.client(openStore(t, t.TempDir()), tc.opts).Resolve(t.Context(), mine)
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.fix)):
				t.Errorf("%v, want %q and %q", err, tc.want, tc.fix)
			}
			var fixer interface{ Fix() string }
			if tc.fix != "" && (!errors.As(err, &fixer) || !strings.Contains(fixer.Fix(), tc.fix)) {
				t.Errorf("no fix in %v", err)
			}
		})
	}
}

// TestWeakDigest: the library does not even make such signatures.
func TestWeakDigest(t *testing.T) {
	for _, h := range []crypto.Hash{crypto.MD5, crypto.SHA1, crypto.SHA224, crypto.RIPEMD160} {
		sig := &packet.Signature{SigType: packet.SigTypeText, Hash: h}
		if err := checkSignature(sig, nil, nil, time.Now()); !errors.Is(err, errWeak) {
			t.Errorf("%v: %v", h, err)
		}
	}
}

// TestDowngrade: a mirror that goes back in time is not followed.
func TestDowngrade(t *testing.T) {
	r := newRepo(t)
	st := openStore(t, t.TempDir())
	newer := r.date
	r.publish(t)
	lock, err := r.client(st, nil).Resolve(t.Context(), mine)
	if err != nil {
		t.Fatal(err)
	}
	r.date = newer.Add(-24 * time.Hour)
	r.publish(t)
	heard := &log{}
	again, err := r.client(st, func(o *Options) { o.Update, o.Events = true, heard }).Resolve(t.Context(), mine)
	if err != nil || !again.Date.Equal(lock.Date) || !strings.Contains(heard.warnings(), "older than") {
		t.Errorf("%v, %v, %q", err, again, heard.warnings())
	}
	again, err = r.client(st, func(o *Options) { o.Update, o.AllowDowngrade = true, true }).Resolve(t.Context(), mine)
	if err != nil || again.Date.Equal(lock.Date) {
		t.Errorf("allowed: %v, %v", err, again)
	}
}

// TestLockOutlivesIndex: with a lock, no index is read, and a package that the
// archive no longer has is named.
func TestLockOutlivesIndex(t *testing.T) {
	r := newRepo(t)
	r.publish(t)
	lock, err := r.client(openStore(t, t.TempDir()), nil).Resolve(t.Context(), mine)
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(r.dir, "dists"))
	st := openStore(t, t.TempDir())
	if err := r.client(st, nil).Fetch(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	checkStore(t, st)
	os.RemoveAll(filepath.Join(r.dir, "pool"))
	err = r.client(openStore(t, t.TempDir()), nil).Fetch(t.Context(), lock)
	if err == nil || !strings.Contains(err.Error(), "busybox-static:amd64=") || !strings.Contains(err.Error(), "--update") {
		t.Error(err)
	}
	err = New(Options{Store: openStore(t, t.TempDir()), MirrorErr: &NoMirrorError{AptDir: "/etc/apt"}}).Fetch(t.Context(), lock)
	if !errors.As(err, new(*NoMirrorError)) {
		t.Error(err)
	}
}

// TestSignedNonsense: what is signed can be wrong too.
func TestSignedNonsense(t *testing.T) {
	for _, tc := range []struct{ name, from, to, want string }{
		{"path out of the archive", "Filename: pool/", "Filename: ../../", "not a path below"},
		{"path with a blank", "Filename: pool/", "Filename: pool /", "not a path below"},
		{"no digest", "SHA256: ", "SHA257: ", "no SHA-256"},
		{"negative size", "Size: ", "Size: -", "not a number of bytes"},
		{"malformed", "Package: busybox-static\n", "Package busybox-static\n", "line 1"},
		{"another package", "Version: ", "Version: 9:", "says that it is"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRepo(t)
			r.edit = func(s string) string { return strings.Replace(s, tc.from, tc.to, 1) }
			r.publish(t)
			c := r.client(openStore(t, t.TempDir()), nil)
			lock, err := c.Resolve(t.Context(), mine)
			if err == nil {
				_, err = c.Unpack(t.Context(), lock, UnpackOptions{})
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}
