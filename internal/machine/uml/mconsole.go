package uml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The management console's datagrams (arch/um/drivers/mconsole.h), in host
// byte order. A request is magic, version, length, 512 bytes of text; a reply
// is error, more, length, 512 bytes of text.
const (
	mconsoleMagic   = 0xcafebabe
	mconsoleVersion = 2
	mconsoleData    = 512
)

// mconsole sends an order, such as "cad", to the kernel whose management
// console is the socket at path, and gives its answer. It waits for that for a
// second: the kernel answers from an interrupt handler.
func mconsole(path, order string) (string, error) {
	answer, err := askMconsole(path, order)
	if err != nil {
		return "", fmt.Errorf("management console: %s: %w", order, err)
	}
	return answer, nil
}

func askMconsole(path, order string) (string, error) {
	if len(order) >= mconsoleData {
		return "", errors.New("too long")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(time.Second))
	if err := errors.Join(
		unix.Bind(fd, &unix.SockaddrUnix{}), // an abstract address chosen by the kernel, to be answered at
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
	); err != nil {
		return "", err
	}
	// Through a descriptor of the folder, since a socket's path is limited to
	// 107 bytes and this one may be anywhere.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	defer dir.Close()
	to := &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)}
	b := make([]byte, 12+mconsoleData)
	binary.NativeEndian.PutUint32(b, mconsoleMagic)
	binary.NativeEndian.PutUint32(b[4:], mconsoleVersion)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(order)))
	copy(b[12:], order)
	if err := unix.Sendto(fd, b, 0, to); err != nil {
		return "", err
	}
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", err
	}
	return parseReply(b[:n])
}

func parseReply(b []byte) (string, error) {
	if len(b) < 12 {
		return "", errors.New("short reply")
	}
	n := int(min(binary.NativeEndian.Uint32(b[8:]), mconsoleData, uint32(len(b)-12)))
	text := string(b[12 : 12+n])
	if binary.NativeEndian.Uint32(b) != 0 {
		return "", fmt.Errorf("the kernel refuses: %q", text)
	}
	return text, nil
}
