package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"wolffia/internal/tooltest"
)

// walk types every command of a page, in the order of the page, as somebody who
// reads it would. A page has these pieces:
//
//   - sh: commands for the host, one a line. One that another piece of console
//     follows is typed on a terminal. What runs on a terminal by then has to
//     have ended, except where a comment says "in another terminal".
//   - console: what is typed on the last terminal that is in use. It stands behind a prompt. Other lines
//     are what has to come, in that order. exit and
//     poweroff at the end of a piece end the command.
//   - text: what the last command of the sh before has to print, line by line.
//   - others, such as yaml: excerpts of files of the example.
//
// In what has to come, "…" is anything.
type walk struct {
	t    *testing.T
	p    *person
	c    call      // how commands are run
	keys string    // a folder for what ssh keeps
	open []*screen // terminals in use, the last one typed on
}

// screen is a command at work on a terminal.
type screen struct {
	*terminal
	command string
}

// typedLine tells what is typed from what is printed: prompts of shells, of
// login, of ssh.
var typedLine = regexp.MustCompile(`^((?:\w+:)?~ ?# ?|.*(?:login|assword): )(.*)$`)

// page walks through docs/examples/NAME.md in a copy of examples/NAME.
func (p *person) page(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", name+".md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := p.example(t, name)
	bin := p.folder(t, "bin")
	if err := os.Symlink(p.plain(t), filepath.Join(bin, "wolffia")); err != nil {
		t.Fatal(err)
	}
	path := bin + ":" + os.Getenv("PATH")
	w := &walk{t: t, p: p, keys: t.TempDir(), c: call{dir: dir, program: "sh", limit: cold, env: []string{"PATH=" + path, "TERM=xterm"}}}
	var out, pending string // of the last piece of sh: what it printed, and a command that a console follows
	pieces := regexp.MustCompile("(?sm)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	for i, piece := range pieces {
		switch kind, text := piece[1], piece[2]; kind {
		case "sh":
			out, pending = w.host(text, i+1 < len(pieces) && pieces[i+1][1] == "console")
		case "text":
			w.compare(out, text)
		case "console":
			if pending != "" {
				w.start(pending)
			}
			pending = ""
			w.console(text)
		default:
			w.excerpt(dir, text)
		}
	}
	w.idle("the end")
}

// host runs the commands of a piece, and leaves the last one to a terminal where
// that is how it is used.
func (w *walk) host(text string, terminal bool) (out, pending string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines {
		command := strings.TrimSpace(regexp.MustCompile(`\s#\s.*`).ReplaceAllString(line, ""))
		if !strings.Contains(line, "# in another terminal") {
			w.idle(command)
		}
		if terminal && i == len(lines)-1 {
			return "", command
		}
		if dir, ok := strings.CutPrefix(command, "cd examples/"); ok {
			if dir != filepath.Base(w.c.dir) {
				w.t.Errorf("%q: the page is in %s", command, w.c.dir)
			}
			continue
		}
		o := w.p.run(w.t, w.c, "-ec", command)
		out = o.out + o.err
	}
	return out, ""
}

// idle holds that nothing is left on terminals.
func (w *walk) idle(before string) {
	w.t.Helper()
	for _, x := range w.open {
		w.t.Fatalf("before %s, %q still runs", before, x.command)
	}
}

// compare holds what a command printed to what the page says.
func (w *walk) compare(out, text string) {
	w.t.Helper()
	var pattern []string
	for line := range strings.Lines(text) {
		pattern = append(pattern, expected(line))
	}
	if !regexp.MustCompile(`(?s)` + strings.Join(pattern, ".*")).MatchString(out) {
		w.t.Errorf("the page says:\n%s\nand there was:\n%s", text, clip(out))
	}
}

// expected is a line of a page as a pattern.
func expected(line string) string {
	return strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(line)), "…", "[^\r\n]*")
}

// start runs a command on a terminal of its own. ssh is the one of whoever runs
// the tests: it wants an account with a name.
func (w *walk) start(command string) {
	w.t.Helper()
	cmd := w.p.command(context.Background(), w.c, "-ec", "exec "+command)
	if tool, args, _ := strings.Cut(command, " "); tool == "ssh" || tool == "scp" {
		tooltest.Require(w.t, tool, "openssh-client")
		cmd = exec.Command("sh", "-ec", "exec "+tool+" -F none -o StrictHostKeyChecking=no -o LogLevel=ERROR "+
			"-o UserKnownHostsFile="+filepath.Join(w.keys, "known")+" "+args)
		cmd.Dir = w.c.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	x := openTerminal(w.t, 250, 50)
	x.start(w.t, w.p, cmd)
	w.open = append(w.open, &screen{x, command})
}

// console types a piece on the last terminal that is in use.
func (w *walk) console(text string) {
	w.t.Helper()
	if len(w.open) == 0 {
		w.t.Fatalf("nothing runs that this could be typed on:\n%s", text)
	}
	x := w.open[len(w.open)-1]
	var typed string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		m := typedLine.FindStringSubmatch(line)
		if m == nil {
			x.out.within(w.t, bootPatience, `(?:^|[\r\n]|\x1b\[J)(?:\S+: )?`+expected(line))
			continue
		}
		x.out.within(w.t, bootPatience, `(?:^|[\r\n]|\x1b\[J)`+regexp.QuoteMeta(m[1]))
		typed = m[2]
		x.write(w.t, typed+"\r")
		if !strings.HasSuffix(m[1], "assword: ") {
			x.out.expect(w.t, regexp.QuoteMeta(typed)+`\r+\n`) // the echo
		}
	}
	if !regexp.MustCompile(`(^|; )(exit|poweroff)$`).MatchString(typed) && !strings.HasPrefix(x.command, "scp ") {
		return
	}
	if status := x.end(w.t); status != 0 {
		w.t.Errorf("%s: status %d\n%s", x.command, status, clip(x.out.String()))
	}
	w.open = w.open[:len(w.open)-1]
}

// excerpt holds a piece to the example's files.
func (w *walk) excerpt(dir, text string) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), text) {
			return
		}
	}
	w.t.Errorf("no file of the example has this:\n%s", text)
}
