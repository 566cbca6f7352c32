package uml

import "bytes"

// What the kernel says when the host had no room for what the guest wrote to a
// disk, and goes on: file systems notice it late or never, and programs that
// wrote are told that all is well. A letter follows, the disk's.
var noSpace = []byte("critical space allocation error, dev ubd")

// logged ends what stands before a line of the kernel's in a log, which is of
// another time, or of another machine.
var logged = []byte(": ")

// fullWatch looks for noSpace in a console's output, however it comes in pieces.
// Its methods belong to one goroutine.
type fullWatch struct {
	found func(disk int)

	tail []byte // the end of what was looked at
}

func (w *fullWatch) look(p []byte) {
	w.tail = append(w.tail, p...)
	rest := w.tail
	for {
		before, after, ok := bytes.Cut(rest, noSpace)
		if !ok || len(after) == 0 {
			break
		}
		if disk := int(after[0]) - 'a'; disk >= 0 && disk < 26 && !bytes.HasSuffix(before, logged) {
			w.found(disk)
		}
		rest = after
	}
	keep := min(len(rest), len(logged)+len(noSpace))
	w.tail = append(w.tail[:0], rest[len(rest)-keep:]...)
}
