package deb

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	maxMembers   = 32 // real packages have 3, signed ones 4 or 5
)

// member is a file in an ar archive.
type member struct {
	name         string
	offset, size int64
}

// readMembers lists the members of the ar archive that ra holds. Layout of a
// header (ar(5)): name[16] mtime[12] uid[6] gid[6] mode[8] size[10] "`\n", all
// text padded with blanks; contents begin at even offsets.
func readMembers(ra io.ReaderAt, size int64) ([]member, error) {
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(io.NewSectionReader(ra, 0, size), magic[:]); err != nil {
		return nil, fmt.Errorf("read ar magic: %w", noEOF(err))
	}
	if string(magic[:]) != arMagic {
		return nil, errors.New("not an ar archive")
	}
	var members []member
	for at := int64(len(arMagic)); at < size; {
		var h [arHeaderSize]byte
		if _, err := io.ReadFull(io.NewSectionReader(ra, at, size-at), h[:]); err != nil {
			return nil, fmt.Errorf("read ar header at %d: %w", at, noEOF(err))
		}
		if h[58] != '`' || h[59] != '\n' {
			return nil, fmt.Errorf("ar header at %d is malformed", at)
		}
		n, err := strconv.ParseUint(strings.TrimRight(string(h[48:58]), " "), 10, 63)
		if err != nil {
			return nil, fmt.Errorf("ar header at %d has size %q", at, h[48:58])
		}
		// GNU ar ends names with a slash, dpkg does not.
		m := member{name: strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/"), offset: at + arHeaderSize, size: int64(n)}
		if m.size > size-m.offset {
			return nil, fmt.Errorf("member %q at %d claims %d bytes, %d are there: %w", m.name, at, m.size, size-m.offset, io.ErrUnexpectedEOF)
		}
		if len(members) == maxMembers {
			return nil, fmt.Errorf("more than %d members", maxMembers)
		}
		members = append(members, m)
		at = m.offset + m.size
		at += at & 1 // the last member's padding may be missing
	}
	return members, nil
}

// noEOF: an end in the midst of a structure is no end of the input.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
