package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// debugged is a program with debug symbols.
const debugged = `#include <stdio.h>
#include <unistd.h>

static int work(int n)
{
	int twice = 2 * n;
	return twice; /* line 7 */
}

int main(int argc, char **argv)
{
	char line[80] = "";
	if (fgets(line, sizeof line, stdin))
		printf("read %s", line);
	printf("worked %d\n", work(argc));
	while (argc == 3)
		sleep(1);
	fprintf(stderr, "done\n");
	return 7;
}
`

// debugLab makes a folder with a lab whose image has the program in it, linked
// statically: the C library of whoever runs the tests may be newer than the
// image's.
func debugLab(t *testing.T, p *person) (dir string) {
	t.Helper()
	gcc := tooltest.Require(t, "gcc", "gcc")
	dir = p.folder(t, "lab")
	source, program := filepath.Join(dir, "debugged.c"), filepath.Join(dir, "debugged")
	p.write(t, source, debugged)
	if out, err := exec.Command(gcc, "-g", "-O0", "-static", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p.write(t, filepath.Join(dir, "wolffia.yaml"), `
images:
  base: {packages: [busybox-static, dropbear-bin], files: [{from: ./debugged, to: /opt/debugged}]}
`)
	p.write(t, filepath.Join(dir, "input"), "some words\n")
	return dir
}

// TestGDB stops at a line of a program with symbols, in machines of both
// backends, one without a network: its variables, its streams, its end.
func TestGDB(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "gdb", "gdb")
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	dir := debugLab(t, p)
	for _, flags := range [][]string{{"--backend", "uml", "--network", "none"}, {"--backend", "qemu"}} {
		t.Run(flags[1], func(t *testing.T) {
			args := append([]string{"gdb", "-q", "--input", "input"}, flags...)
			o := p.run(t, call{program: p.plain(t), dir: dir, limit: cold}, append(args,
				"-ex", "break debugged.c:7", "-ex", "continue", "-ex", "backtrace", "-ex", "print twice",
				"-ex", "set variable twice = 50", "-ex", "info registers rip", "-ex", "print $xmm0", "-ex", "continue", "-batch", "--", "/opt/debugged", "a b'c")...)
			for _, want := range []string{
				`Breakpoint 1, work \(n=2\) at .*debugged.c:7\n`, `#1 +0x[0-9a-f]+ in main \(argc=2, argv=0x[0-9a-f]+\) at`,
				`\$1 = 4\n`, `rip +0x[0-9a-f]+ +0x[0-9a-f]+ <work\+`, `v4_float`, `(?m)^read some words$`, `(?m)^worked 50$`, `exited with code 07`,
			} {
				if !regexp.MustCompile(want).MatchString(o.out) {
					t.Errorf("%q is missing: %v", want, o)
				}
			}
			if o.err != "done\n" || strings.Contains(o.err+o.out, "Listening on") || strings.Contains(o.err+o.out, "Child exited") {
				t.Errorf("standard error is not the program's: %v", o)
			}
		})
	}
}

// TestGDBSymbols has the symbols of a stripped program in a folder of the host's.
func TestGDBSymbols(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "gdb", "gdb")
	objcopy := tooltest.Require(t, "objcopy", "binutils")
	p := newPerson(t)
	dir := debugLab(t, p)
	symbols := filepath.Join(p.folder(t, "symbols"), "usr/lib/debug/opt")
	if err := os.MkdirAll(symbols, 0o755); err != nil {
		t.Fatal(err)
	}
	program, apart := filepath.Join(dir, "debugged"), filepath.Join(symbols, "debugged.debug")
	for _, argv := range [][]string{
		{objcopy, "--only-keep-debug", program, apart},
		{objcopy, "--strip-all", "--add-gnu-debuglink=" + apart, program},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	args := []string{"gdb", "-q", "-f", filepath.Join(dir, "wolffia.yaml"), "-ex", "break work", "-ex", "continue", "-batch", "--", "/opt/debugged"}
	if o := p.run(t, call{limit: cold}, args...); strings.Contains(o.out, "work (n=1)") {
		t.Errorf("it has symbols by itself: %v", o)
	}
	args = slices.Insert(args, 1, "--symbols", "symbols")
	if o := p.run(t, call{limit: cold}, args...); !strings.Contains(o.out, "Breakpoint 1, work (n=1) at ") {
		t.Error(o)
	}
}

// TestGDBTerminal debugs at a terminal: the keyboard is gdb's, Ctrl-C stops the
// program, and the program's lines come as it writes them.
func TestGDBTerminal(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "gdb", "gdb")
	p := newPerson(t)
	dir := debugLab(t, p)
	x := p.atTerminal(t, "gdb", "-f", filepath.Join(dir, "wolffia.yaml"), "--gdb-arg", "-nx", "-ex", "set style enabled off", "--", "/opt/debugged", "and", "on")
	x.out.within(t, cold, `\(gdb\) `)
	x.write(t, "break work\r")
	x.out.expect(t, `Breakpoint 1 at 0x[0-9a-f]+: .*debugged.c, line 6`)
	x.write(t, "continue\r")
	x.out.expect(t, `Breakpoint 1, work \(n=3\)`)
	x.write(t, "continue\r")
	x.out.expect(t, `worked 6\r\n`)
	x.write(t, "\x03")
	x.out.expect(t, `Program received signal SIGINT`)
	x.out.expect(t, `\(gdb\) `)
	x.write(t, "kill\r")
	x.out.expect(t, `\(y or n\) `)
	x.write(t, "y\r")
	x.out.expect(t, `killed\]`)
	x.write(t, "quit 5\r")
	x.left(t, 5)
}

// TestGDBAttach debugs a process that runs, a service by the name that wolffia's own
// way into the machine has, too, and says what it can't find. All of the C library
// is there, with what gdbserver can't make use of under the kernel of User-Mode Linux.
func TestGDBAttach(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "gdb", "gdb")
	p := newPerson(t)
	dir := p.folder(t, "lab")
	p.write(t, filepath.Join(dir, "wolffia.yaml"), "images: {base: {packages: [busybox-static, dropbear-bin, libc6], services: [dropbear]}}\n")
	o := p.run(t, call{dir: dir, limit: cold}, "gdb", "-q", "--attach", "dropbear", "-ex", "info inferiors", "-ex", "backtrace", "-ex", "detach", "-batch")
	if !regexp.MustCompile(`\* 1 +process \d+ .*/dropbear`).MatchString(o.out) || !strings.Contains(o.out, " in select () from ") || !strings.Contains(o.out, "detached]") {
		t.Error(o)
	}
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--attach", "nobody"}, 1, `no process in machine "wolffia" is called "nobody"`},
		{[]string{"--", "nosuch"}, 1, `debug "nosuch": there is no program of this name in the machine`},
		{[]string{"--", "/etc"}, 1, "Permission denied; give a program of the machine"},
		{[]string{"--symbols", "nosuch", "--", "ls"}, 2, "/nosuch: no such file or directory"},
		{[]string{"--gdb", "./nosuch", "--", "ls"}, 2, "/nosuch: no such file or directory"},
		{[]string{"--input", ".", "--", "ls"}, 2, "it is a folder"},
		{[]string{"--", "/bin/nosuch"}, 1, "give a program of the machine"},
		{[]string{"--attach", "nc", "--", "ls"}, 2, "--attach nc debugs what runs already"},
		{nil, 2, "what to debug"},
		{[]string{"-k", "--backend", "uml"}, 2, "use --backend qemu"},
		{[]string{"--wait", "--", "ls"}, 2, "--wait goes with --debug-kernel"},
	} {
		o := p.try(t, call{limit: cold}, append([]string{"gdb", "-q"}, c.args...)...)
		if o.status != c.status || o.out != "" || !strings.Contains(o.err, c.says) {
			t.Errorf("want status %d and %q: %v", c.status, c.says, o)
		}
	}
	o = p.try(t, call{env: []string{"PATH=/nowhere"}}, "gdb", "-q", "--arch", "riscv64", "--offline", "--", "ls")
	if o.status == 0 {
		t.Error(o)
	}
}

// TestGDBArchitectures stops programs of the other architectures at a function of
// their C library: gdb has found it in the image, and registers hold what the
// calling convention says, here that the first argument is standard output.
func TestGDBArchitectures(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "gdb-multiarch", "gdb-multiarch")
	p := newPerson(t)
	for arch, first := range map[string]string{
		"i386": "*(int*)($esp+4)", "arm64": "$x0", "armhf": "$r0", "riscv64": "$a0",
	} {
		t.Run(arch, func(t *testing.T) {
			o := p.run(t, call{program: p.plain(t), limit: cold}, "gdb", "-q", "--backend", "qemu", "--arch", arch, "-ex", "break write", "-ex", "continue",
				"-ex", "backtrace 1", "-ex", "print "+first, "-ex", "delete", "-ex", "continue", "-batch", "--", "gdbserver", "--version")
			for _, want := range []string{
				`Breakpoint 1(\.\d)?, 0x[0-9a-f]+ in (__)?write \(\)`, `#0 +0x[0-9a-f]+ in (__)?write \(\)`, `\$1 = (\(void \*\) )?(0x)?1\n`,
				`(?m)^GNU gdbserver \(Debian`, `exited normally`,
			} {
				if !regexp.MustCompile(want).MatchString(o.out) {
					t.Errorf("%q is missing: %v", want, o)
				}
			}
		})
	}
}

// TestGDBKernel stops the kernel at its first function, by an address and by the
// name that a vmlinux has for it.
func TestGDBKernel(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "gdb", "gdb")
	ld := tooltest.Require(t, "ld", "binutils")
	as := tooltest.Require(t, "as", "binutils")
	p := newPerson(t)
	plain := p.plain(t)
	o := p.run(t, call{program: plain, limit: cold}, "run", "-q", "--backend", "qemu", "--cmdline", "nokaslr", "--", "grep", " start_kernel$", "/proc/kallsyms")
	address, _, _ := strings.Cut(o.out, " ")
	dir := p.folder(t, "symbols")
	source, object, vmlinux := filepath.Join(dir, "v.s"), filepath.Join(dir, "v.o"), filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(source, []byte(".globl start_kernel\n.type start_kernel, @function\nstart_kernel: .skip 64\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{as, "--64", "-o", object, source}, {ld, "-e", "start_kernel", "-Ttext=0x" + address, "-o", vmlinux, object}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	for _, c := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"address", []string{"-ex", "hbreak *0x" + address, "-ex", "continue"}, fmt.Sprintf(`Breakpoint 1, 0x0*%s in \?\? \(\)`, address)},
		{"name", []string{"--symbols", dir, "-ex", "hbreak start_kernel", "-ex", "continue"}, fmt.Sprintf(`Breakpoint 1, 0x0*%s in start_kernel \(\)`, address)},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"gdb", "-q", "--debug-kernel", "--wait"}, c.flags...)
			o := p.run(t, call{program: plain, limit: cold}, append(args, "-ex", "info registers rip", "-batch")...)
			if !regexp.MustCompile(c.want).MatchString(o.out) || !strings.Contains(o.out, address) {
				t.Errorf("%q is missing: %v", c.want, o)
			}
		})
	}
}

// TestStrace traces a command: where the trace goes, and that all else is as if
// it was not there.
func TestStrace(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	for _, flags := range [][]string{{"--backend", "uml", "--network", "none"}, {"--backend", "qemu", "--arch", "arm64"}} {
		t.Run(flags[1], func(t *testing.T) {
			c := call{program: p.plain(t), limit: cold}
			args := append([]string{"strace", "-q"}, flags...)
			c.stdin = strings.NewReader("one\ntwo\n")
			o := p.try(t, c, append(args, "-o", "trace", "--", "-f", "-e", "trace=%process,write", "sh", "-c", "ls /; wc -l; echo err >&2; exit 3")...)
			trace, err := os.ReadFile(filepath.Join(p.home, "trace"))
			if err != nil {
				t.Fatal(err)
			}
			if o.status != 3 || !strings.HasSuffix(o.out, "var\n2\n") || o.err != "err\n" {
				t.Errorf("the command is not as ever: %v", o)
			}
			for _, want := range []string{`write\(1, "err\\n", 4\) += 4`, `exit_group\(3\)`, `\+\+\+ exited with 3 \+\+\+\n$`} {
				if !regexp.MustCompile(want).Match(trace) {
					t.Errorf("%q is missing in the trace:\n%s", want, clip(string(trace)))
				}
			}
			o = p.try(t, c, append(args, "-o", "trace", "--", "--nosuch")...)
			if o.status != 1 || !strings.Contains(o.err, "--nosuch") {
				t.Errorf("a bad option: %v", o)
			}
		})
	}
	o := p.try(t, call{}, "strace", "-q", "-o", "/dev/full", "--", "true")
	if o.status != 1 || !strings.HasSuffix(o.err, "wolffia: write the trace: write /dev/full: no space left on device\n") {
		t.Error(o)
	}
	o = p.run(t, call{}, "strace", "-q", "--", "ls", "/etc/hosts")
	if o.out != "/etc/hosts\n" || !strings.HasPrefix(o.err, `execve("/usr/bin/ls", ["ls", "/etc/hosts"]`) || !strings.HasSuffix(o.err, "+++ exited with 0 +++\n") {
		t.Error(o)
	}
}
