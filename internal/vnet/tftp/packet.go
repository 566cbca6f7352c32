package tftp

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// Opcodes (RFC 1350, 5; RFC 2347).
const (
	opRead    = 1
	opWrite   = 2
	opData    = 3
	opAck     = 4
	opError   = 5
	opOptions = 6
)

// Error codes (RFC 1350, 5; RFC 2347).
const (
	codeUndefined = 0
	codeNotFound  = 1
	codeAccess    = 2
	codeIllegal   = 4
)

// protocolError is one that the client is told of, unless answer is false.
type protocolError struct {
	code   uint16
	text   string
	answer bool
}

func refuse(code uint16, text string) *protocolError { return &protocolError{code, text, true} }

// ignored is what gets no answer: an answer to it could be part of a loop.
var ignored = &protocolError{text: "not a request"}

func (e *protocolError) Error() string { return e.text }

func (e *protocolError) packet() []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, e.code)
	return append(append(b, e.text...), 0)
}

// request is a client's wish to read a file.
type request struct {
	name  string
	ascii bool // mode netascii
	// The options, in the order asked; the first of each kind counts.
	options []option
}

type option struct {
	name  string // in lower case
	value int64
}

// parseRequest reads a request: opcode, then strings that each end in a zero
// byte: file name, mode, and pairs of an option's name and its value.
func parseRequest(b []byte) (*request, *protocolError) {
	if len(b) < 4 || len(b) > maxRequest {
		return nil, ignored
	}
	switch binary.BigEndian.Uint16(b) {
	case opRead:
	case opWrite:
		return nil, refuse(codeAccess, "this server is read-only")
	case opData, opAck, opError, opOptions:
		return nil, ignored
	default:
		return nil, refuse(codeIllegal, "unknown operation")
	}
	rest, whole := bytes.CutSuffix(b[2:], []byte{0})
	words := strings.Split(string(rest), "\x00")
	if !whole || len(words) < 2 || words[0] == "" {
		return nil, refuse(codeIllegal, "malformed request")
	}
	r := &request{name: words[0]}
	switch strings.ToLower(words[1]) {
	case "octet":
	case "netascii":
		r.ascii = true
	default:
		return nil, refuse(codeIllegal, "the modes are octet and netascii")
	}
	for words = words[2:]; len(words) >= 2; words = words[2:] {
		value, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || value < 0 || len(r.options) == 16 {
			continue // an option that makes no sense is as one that is not known
		}
		r.options = append(r.options, option{strings.ToLower(words[0]), value})
	}
	return r, nil
}

// negotiate makes the transfer that a request asks for, as far as it is granted.
func (s *Server) negotiate(r *request, file reader, size int64) *transfer {
	t := &transfer{size: defaultBlock, window: 1, timeout: s.o.Timeout}
	var granted []byte
	seen := map[string]bool{}
	for _, o := range r.options {
		if seen[o.name] {
			continue
		}
		seen[o.name] = true
		value := o.value
		switch {
		case o.name == "blksize" && value >= minBlock: // RFC 2348: the server may give less
			value = min(value, int64(s.o.MaxBlock))
			t.size = int(value)
		case o.name == "timeout" && value >= 1 && value <= 255: // RFC 2349: all or nothing
			t.timeout = time.Duration(value) * time.Second
		case o.name == "tsize" && !r.ascii && size > 0:
			// RFC 2349. As netascii the file has another size, and curl takes that
			// of an empty file for an error.
			value = size
		case o.name == "windowsize" && value >= 1 && !r.ascii: // RFC 7440: the server may give less
			value = min(value, maxWindow)
			t.window = int64(value)
		default:
			continue
		}
		granted = append(append(granted, o.name...), 0)
		granted = append(strconv.AppendInt(granted, value, 10), 0)
	}
	if granted != nil {
		t.oack = append([]byte{0, opOptions}, granted...)
	}
	t.blocks = &plain{file, size}
	if r.ascii {
		t.blocks = newNetASCII(file, size)
	}
	return t
}
