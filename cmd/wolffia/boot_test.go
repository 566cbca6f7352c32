package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDoesNotComeUp boots machines that can't: each ends by itself with status
// 125 and one report that has the stage, the cause, the fix, and the last
// console lines; the whole console is kept where the report says.
func TestDoesNotComeUp(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	image := func(init string) string {
		dir := p.folder(t, "lab")
		p.write(t, filepath.Join(dir, "wolffia.yaml"), `
images:
  base:
    packages: [busybox-static, dropbear-bin]
    deps: elf
    files: [{path: /init, mode: 0755, content: "`+init+`\n"}]
`)
		return dir
	}
	cases := []struct {
		name  string
		init  string // in place of the image's own, if not empty
		flags []string
		says  []string
	}{
		{"too little memory", "", []string{"--memory", "16M"},
			[]string{"stage:   kernel\n", "too little memory", "--memory", "Too few physical memory"}},
		{"memory too small for the image", "", []string{"--memory", "24M"},
			[]string{"stage:   ", "memory", "--memory"}},
		{"no init", "", []string{"--cmdline", "rdinit=/nonexistent"},
			[]string{"there is no /init", "fix:     put an executable /init", "Kernel panic - not syncing: VFS"}},
		{"init ends", "#!/bin/sh\\necho farewell; exit 3", nil,
			[]string{"stage:   init\n", "init ended", "farewell", "Attempted to kill init"}},
		{"init's interpreter is missing", "#!/usr/bin/nonexistent", nil,
			[]string{"stage:   init\n", "the interpreter or loader that it names", "fix:     put an executable /init"}},
		{"init is no program", "\\x7fELF no program", nil,
			[]string{"stage:   init\n", "fix:     put an executable /init"}},
		{"init hangs", "#!/bin/sh\\necho thinking; while :; do sleep 1; done", []string{"--boot-timeout", "3s"},
			[]string{"nothing was heard of it for 3s", "--boot-timeout", "thinking"}},
		{"init powers off", "#!/bin/sh\\n/bin/busybox poweroff -f", nil,
			[]string{"powered off before it was up"}},
		{"nothing lets commands in", "#!/bin/sh\\nmount -t devtmpfs d /dev; echo ready >/dev/ttyS0; while :; do sleep 1; done", nil,
			[]string{"stage:   access\n", "dropbear-bin"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			how := call{}
			if c.init != "" {
				how.dir = image(c.init)
			}
			o := p.try(t, how, append(append([]string{"run", "-q"}, c.flags...), "--", "true")...)
			if o.status != 125 || o.out != "" {
				t.Errorf("want status 125: %v", o)
			}
			if !strings.HasPrefix(o.err, "wolffia: machine ") || strings.Count(o.err, "did not come up") != 1 {
				t.Errorf("want one report: %v", o)
			}
			for _, s := range append(c.says, "  stage:", "  cause:", "  command: ") {
				if !strings.Contains(o.err, s) {
					t.Errorf("%q is not in: %s", s, o.err)
				}
			}
			if _, log, ok := strings.Cut(o.err, "  log:     "); ok {
				if data, err := os.ReadFile(strings.TrimSpace(log)); err != nil || len(data) == 0 {
					t.Errorf("the log has %d bytes (%v)", len(data), err)
				}
			}
		})
	}
}

// TestDiesLater reports a machine that ends while a command runs in it.
func TestDiesLater(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	t.Run("panic", func(t *testing.T) {
		o := p.try(t, call{}, "run", "--", "sh", "-c", "echo before; sleep 0.2; echo c >/proc/sysrq-trigger; sleep 1000")
		if o.status != 125 || o.out != "before\n" || !strings.Contains(o.err, "cause:   the kernel panicked: sysrq triggered crash") || !strings.Contains(o.err, "died") {
			t.Error(o)
		}
	})
	t.Run("reboot", func(t *testing.T) {
		o := p.try(t, call{}, "run", "--", "sh", "-c", "echo before; sleep 0.2; reboot -f; sleep 1000")
		if o.status != 1 || o.out != "before\n" || !oneLine(o.err) || !strings.Contains(o.err, "restarted") {
			t.Error(o)
		}
	})
	t.Run("poweroff", func(t *testing.T) {
		o := p.try(t, call{}, "run", "--", "sh", "-c", "echo before; poweroff; sleep 1000")
		if o.status != 1 || o.out != "before\n" || !oneLine(o.err) || !strings.Contains(o.err, "powered off") {
			t.Error(o)
		}
	})
}

// TestMinimalHost runs a machine to its end on a host without libgcc_s, which the
// C library opens by its name: the kernel was aborted when it halted.
func TestMinimalHost(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	p.run(t, call{limit: cold}, "run", "-q", "--", "true") // so that all is there
	wrap := inNamespace(t, `for f in /lib*/libgcc_s.so.1 /lib/*/libgcc_s.so.1 /usr/lib*/libgcc_s.so.1 /usr/lib/*/libgcc_s.so.1; do
		if test -e "$f"; then mount --bind /dev/null "$f"; fi
	done`)
	o := p.try(t, call{wrap: wrap}, "run", "-q", "--", "sh", "-c", "echo before; poweroff; sleep 1000")
	if o.status != 1 || o.out != "before\n" || !oneLine(o.err) || !strings.Contains(o.err, "powered off") {
		t.Error(o)
	}
}
