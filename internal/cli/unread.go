package cli

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// whileRead closes in once nobody is left to read what is written to out, a pipe or
// a socket, which would otherwise show with the next write only. It gives what ends
// the watch, and says whether that has happened.
func whileRead(out *os.File, in io.Closer) (unread func() bool) {
	r, w, err := os.Pipe()
	if err != nil {
		return func() bool { return false }
	}
	gone := make(chan bool, 1)
	go func() {
		defer r.Close()
		fds := []unix.PollFd{{Fd: int32(out.Fd())}, {Fd: int32(r.Fd())}} // errors and hang-ups are told unasked
		for {
			_, err := unix.Poll(fds, -1)
			if err == unix.EINTR {
				continue
			}
			left := err == nil && fds[0].Revents != 0 && fds[1].Revents == 0
			gone <- left
			if left {
				in.Close()
			}
			return
		}
	}()
	return func() bool {
		w.Close()
		return <-gone
	}
}
