// Package finding is what the checks of image formats report: a bounded list of
// what is wrong, each with where it is.
//
//	var l finding.List
//	l.Problem("group 3", "its block bitmap's checksum is wrong")
//	l.Note("superblock", "it was not unmounted")
package finding

import "fmt"

// Finding is one thing that a check has found.
type Finding struct {
	Where string `json:"where"`          // such as "inode 14 (/etc/motd)"
	What  string `json:"what"`           // a sentence without its full stop
	Note  bool   `json:"note,omitempty"` // worth telling, and nothing wrong
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// Max is how many findings a list keeps: a damaged image can have millions.
const Max = 1000

// List is what a check has found. The zero value is an empty one.
type List struct {
	All      []Finding // the first [Max]
	Problems int       // how many there are that are no notes, those that were not kept included
	Dropped  int       // how many findings were not kept
}

// Problem adds something that is wrong.
func (l *List) Problem(where, format string, args ...any) {
	l.Problems++
	l.add(Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

// Note adds something that is worth telling, and nothing wrong.
func (l *List) Note(where, format string, args ...any) {
	l.add(Finding{Where: where, What: fmt.Sprintf(format, args...), Note: true})
}

func (l *List) add(f Finding) {
	if len(l.All) >= Max {
		l.Dropped++
		return
	}
	l.All = append(l.All, f)
}

// Within adds all of o, whose places lie in the place where.
func (l *List) Within(where string, o *List) {
	for _, f := range o.All {
		if where != "" {
			f.Where = where + ", " + f.Where
		}
		l.add(f)
	}
	l.Problems += o.Problems
	l.Dropped += o.Dropped
}
