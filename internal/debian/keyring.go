package debian

import (
	"bytes"
	_ "embed" // for the keys of Debian's archives
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
)

// debianKeys are public facts: they are here so that a host that is not Debian
// can verify Debian's archives too.
//
//go:embed keys.asc
var debianKeys []byte

// maxKeyring bounds a keyring's file; Debian's own has 50 kB.
const maxKeyring = 4 << 20

// hostKeyring is where Debian hosts have the keys, which may be newer than the
// ones embedded here.
const hostKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// loadKeyring gives Debian's keys together with those of further files and
// text. A file that the caller named must be readable; the host's own and those
// that apt's sources name need not be there.
func loadKeyring(named, found []string, text string) (openpgp.EntityList, error) {
	keys, err := parseKeys(debianKeys)
	if err != nil {
		return nil, fmt.Errorf("read the embedded archive keys: %w", err)
	}
	for i, file := range append(named[:len(named):len(named)], found...) {
		data, err := readBounded(file, maxKeyring)
		if i >= len(named) && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
		}
		more, err := parseKeys(data)
		if err != nil {
			return nil, fmt.Errorf("read keyring %s: %w", file, err)
		}
		keys = append(keys, more...)
	}
	if text != "" {
		more, err := parseKeys([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("read the key in apt's sources: %w", err)
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

// parseKeys reads public keys, binary or in one or several armored blocks.
func parseKeys(data []byte) (openpgp.EntityList, error) {
	const begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	if !bytes.Contains(data, []byte(begin)) {
		return openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	var keys openpgp.EntityList
	blocks := strings.Split(string(data), begin)
	for _, b := range blocks[1:] {
		block, err := armor.Decode(strings.NewReader(begin + b))
		if err != nil {
			return nil, err
		}
		more, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	return keys, nil
}
