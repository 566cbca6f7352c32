package main

import (
	"strings"
	"testing"
)

// TestConsoleTells: the console of a machine that was stopped waited for its start
// without a word; and what else a person who is new to labs was not told.
func TestConsoleTells(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), strings.Replace(pair, "bert: {", "bert: {after: [anna], ", 1))
	l.do("up")
	l.do("stop", "anna", "bert")
	x := l.atTerminalIn(t, l.dir, "console", "bert")
	x.out.expect(t, "machine bert is stopped; start it with: wolffia restart bert")
	// It may start only after another one, of which it says so.
	if e := l.fails(125, "restart", "bert"); !strings.Contains(e, "it starts after machine anna") {
		t.Error(e)
	}
	x.out.expect(t, "machine bert failed: ")
	l.do("restart")
	x.out.expect(t, "bert:~#")
	x.write(t, "\x1dq")
	x.left(t, 0)
	if e := l.fails(2, "exec", "bert", "ls", "-l"); !strings.Contains(e, "go behind --") {
		t.Error(e)
	}
	if e := l.fails(2, "ps", "--lab", "none"); strings.Contains(e, "[") {
		t.Error(e)
	}
}
