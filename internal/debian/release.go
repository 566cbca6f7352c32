package debian

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"wolffia/internal/debian/control"
)

// Release is what an InRelease file says about a suite.
type Release struct {
	Origin, Label   string
	Suite, Codename string
	Version         string
	Date            time.Time
	ValidUntil      time.Time // zero if it has no end
	Architectures   []string
	Components      []string
	ByHash          bool // indexes can be had by their digests
	NoAll           bool // packages of architecture "all" are in the other architectures' indexes
	files           map[string]indexFile
}

// indexFile is a line of the field SHA256.
type indexFile struct {
	size int64
	sum  [32]byte
}

// Bounds of a Release file: unstable's has some 3,000 files in 250 kB.
const (
	maxRelease      = 8 << 20
	maxReleaseFiles = 200000
)

// SignatureError says that an InRelease file can't be trusted.
type SignatureError struct {
	URL    string   // of the file
	Why    string   // what is wrong with it
	KeyIDs []string // of the keys that signed it, in hexadecimal
	Remedy string   // what to do about it
}

func (e *SignatureError) Error() string {
	s := fmt.Sprintf("verify %s: %s", redact(e.URL), e.Why)
	if len(e.KeyIDs) > 0 {
		s += " (signed by " + strings.Join(e.KeyIDs, ", ") + ")"
	}
	return s + "; " + e.Remedy
}

// Fix says what to do about it.
func (e *SignatureError) Fix() string { return e.Remedy }

const (
	tryMirror = "try another mirror with --mirror, or later"
	setClock  = "set this computer's clock"
	addKey    = "if you trust this archive, give its key with --keyring FILE"
)

// verifyInRelease checks a clear-signed file against the keys and gives the
// text that was signed, and nothing else: a file that holds anything beside
// the signed message is refused. One good signature of a known key is enough,
// as archives sign with the old and the new key while they change them.
func verifyInRelease(data []byte, url string, keys openpgp.EntityList, now time.Time) ([]byte, error) {
	fail := func(why, remedy string, ids ...string) ([]byte, error) {
		return nil, &SignatureError{URL: url, Why: why, KeyIDs: ids, Remedy: remedy}
	}
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return fail("it is no signed Release file", tryMirror)
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return fail("the signed message is malformed or cut off", tryMirror)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return fail("there is text after the signature, which nobody signed", tryMirror)
	}
	sigs, err := readSignatures(block.ArmoredSignature.Body)
	if err != nil {
		return fail("the signature is malformed: "+err.Error(), tryMirror)
	}
	var ids []string
	var reasons []error
	for _, sig := range sigs {
		err := checkSignature(sig, block.Bytes, keys, now)
		if err == nil {
			return append(block.Plaintext, '\n'), nil
		}
		if sig.IssuerKeyId != nil {
			ids = append(ids, fmt.Sprintf("%016X", *sig.IssuerKeyId))
		}
		reasons = append(reasons, err)
	}
	why, remedy := explainSignatures(reasons)
	return fail(why, remedy, ids...)
}

// maxSignatures bounds the work that a foreign file can cause.
const maxSignatures = 16

func readSignatures(r io.Reader) ([]*packet.Signature, error) {
	var sigs []*packet.Signature
	packets := packet.NewReader(r)
	for {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		var unsupported pgperrors.UnsupportedError
		if errors.As(err, &unsupported) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sig, ok := p.(*packet.Signature); ok && len(sigs) < maxSignatures {
			sigs = append(sigs, sig)
		}
	}
	if len(sigs) == 0 {
		return nil, errors.New("it holds no signature")
	}
	return sigs, nil
}

var (
	errUnknownKey = errors.New("unknown key")
	errWeak       = errors.New("weak")
	errFuture     = errors.New("made in the future")
	// strongHashes are those that a signature may use.
	strongHashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512}
)

func checkSignature(sig *packet.Signature, text []byte, keys openpgp.EntityList, now time.Time) error {
	if sig.SigType != packet.SigTypeText && sig.SigType != packet.SigTypeBinary {
		return errors.New("the signature is not one of a document")
	}
	if !slices.Contains(strongHashes, sig.Hash) {
		return fmt.Errorf("%w: its digest is %v", errWeak, sig.Hash)
	}
	// Serialized alone, since the library looks at the first known key only.
	var one bytes.Buffer
	if err := sig.Serialize(&one); err != nil {
		return err
	}
	// An archive that has just signed is not refused for a clock that is a
	// little behind its own, as the date in the file isn't either.
	if sig.CreationTime.After(now.Add(clockSkew)) {
		return errFuture
	}
	if sig.CreationTime.After(now) {
		now = sig.CreationTime
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	_, signer, err := openpgp.VerifyDetachedSignatureAndHash(keys, bytes.NewReader(text), &one, strongHashes, config)
	if errors.Is(err, pgperrors.ErrUnknownIssuer) {
		return errUnknownKey
	}
	if err != nil {
		return err
	}
	return strongKey(sig, signer)
}

// strongKey refuses signatures by RSA keys that are too short, and by DSA.
func strongKey(sig *packet.Signature, signer *openpgp.Entity) error {
	for _, key := range signer.Subkeys {
		if key.PublicKey.KeyId == *sig.IssuerKeyId {
			return strongPublicKey(key.PublicKey)
		}
	}
	return strongPublicKey(signer.PrimaryKey)
}

func strongPublicKey(key *packet.PublicKey) error {
	switch key.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		if bits, err := key.BitLength(); err != nil || bits < 2047 {
			return fmt.Errorf("%w: an RSA key of %d bits", errWeak, bits)
		}
	case packet.PubKeyAlgoDSA:
		return fmt.Errorf("%w: a DSA key", errWeak)
	}
	return nil
}

// explainSignatures picks the reason that matters most among those for which
// each signature was refused: a bad signature of a known key is a warning sign,
// an unknown key beside an expired one is not.
func explainSignatures(reasons []error) (why, remedy string) {
	is := func(target error) bool {
		return slices.ContainsFunc(reasons, func(err error) bool { return errors.Is(err, target) })
	}
	expired := func(err error) bool {
		return errors.Is(err, pgperrors.ErrKeyExpired) || errors.Is(err, pgperrors.ErrSignatureExpired)
	}
	switch {
	case slices.ContainsFunc(reasons, func(err error) bool {
		return errors.As(err, new(pgperrors.SignatureError)) && !expired(err) && !errors.Is(err, pgperrors.ErrKeyRevoked)
	}):
		return "the text is not what was signed: it was changed or damaged on its way", tryMirror
	case is(pgperrors.ErrKeyRevoked):
		return "the key that signed it is revoked", tryMirror
	case is(errFuture):
		return "its signature was made in the future", setClock
	case slices.ContainsFunc(reasons, expired):
		return "the key that signed it, or the signature, is expired", "give the archive's present key with --keyring FILE (package debian-archive-keyring has Debian's)"
	case is(errUnknownKey):
		return "none of the known keys signed it", addKey
	}
	return fmt.Sprintf("no signature is good: %v", errors.Join(reasons...)), addKey
}

// ParseRelease reads the text of a Release file. Only what is needed to find
// and check Packages indexes is kept.
func ParseRelease(text []byte) (*Release, error) {
	if len(text) > maxRelease {
		return nil, fmt.Errorf("it has more than %d bytes", maxRelease)
	}
	p, err := control.NewReader(bytes.NewReader(text), control.ReaderOptions{}).Next()
	if err != nil {
		return nil, err
	}
	r := &Release{
		Origin: p.Get("Origin"), Label: p.Get("Label"),
		Suite: p.Get("Suite"), Codename: p.Get("Codename"), Version: p.Get("Version"),
		Architectures: strings.Fields(p.Get("Architectures")),
		Components:    strings.Fields(p.Get("Components")),
		ByHash:        strings.EqualFold(p.Get("Acquire-By-Hash"), "yes"),
		NoAll:         slices.Contains(strings.Fields(p.Get("No-Support-for-Architecture-all")), "Packages"),
		files:         map[string]indexFile{},
	}
	if r.Date, err = parseDate(p.Get("Date")); err != nil {
		return nil, fmt.Errorf("field Date: %w", err)
	}
	if until, ok := p.Lookup("Valid-Until"); ok {
		if r.ValidUntil, err = parseDate(until); err != nil {
			return nil, fmt.Errorf("field Valid-Until: %w", err)
		}
	}
	return r, r.parseFiles(p)
}

func (r *Release) parseFiles(p *control.Paragraph) error {
	for line := range strings.SplitSeq(p.Get("SHA256"), "\n") {
		if !strings.Contains(line, "/binary-") {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			return fmt.Errorf("field SHA256: line %q is not a digest, a size and a name", line)
		}
		var file indexFile
		if n, err := hex.Decode(file.sum[:], []byte(f[0])[:min(len(f[0]), 64)]); err != nil || n != 32 || len(f[0]) != 64 {
			return fmt.Errorf("field SHA256: %q is not a digest", f[0])
		}
		var err error
		if file.size, err = strconv.ParseInt(f[1], 10, 64); err != nil || file.size < 0 {
			return fmt.Errorf("field SHA256: %q is not a size", f[1])
		}
		if len(r.files) >= maxReleaseFiles {
			return fmt.Errorf("field SHA256 has more than %d indexes", maxReleaseFiles)
		}
		r.files[f[2]] = file
	}
	return nil
}

// parseDate reads the date of RFC 2822 that Release files have, always in UTC.
func parseDate(s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		t, err := time.Parse(layout, s)
		if err == nil && (strings.HasSuffix(s, "UTC") || strings.HasSuffix(s, "GMT") || strings.HasSuffix(s, "0000")) {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no date in UTC", s)
}

// clockSkew is by how much a mirror's clock may be ahead of ours.
const clockSkew = time.Hour

// StaleError says that a Release file is not, or no longer, valid.
type StaleError struct {
	URL    string
	Why    string
	Remedy string
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("check %s: %s; %s", redact(e.URL), e.Why, e.Remedy)
}

// Fix says what to do about it.
func (e *StaleError) Fix() string { return e.Remedy }

// checkRelease sees whether r is the suite that was asked for, now.
func checkRelease(r *Release, url, suite string, now time.Time, allowExpired bool) (warning string, err error) {
	// Old security suites are called "buster/updates" in their path alone.
	if plain := strings.TrimSuffix(suite, "/updates"); r.Suite != suite && r.Codename != suite && r.Codename != plain && r.Suite != plain {
		return "", &StaleError{url, fmt.Sprintf("it is of suite %q (%q), not %q", r.Suite, r.Codename, suite), tryMirror}
	}
	if r.Date.After(now.Add(clockSkew)) {
		return "", &StaleError{url, fmt.Sprintf("it is dated %s, which is in the future", stamp(r.Date)), setClock}
	}
	if !r.ValidUntil.IsZero() && now.After(r.ValidUntil) {
		why := "it was valid until " + stamp(r.ValidUntil)
		if !allowExpired {
			return "", &StaleError{url, why, "use a mirror that is up to date, or accept it with --ignore-expired"}
		}
		return why, nil
	}
	return "", nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
