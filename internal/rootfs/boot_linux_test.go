package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"wolffia/internal/tree"
)

// runUML, as the first argument of the test program, makes it become the
// kernel in the rest of them.
const runUML = "-rootfs-run-uml"

func init() {
	if len(os.Args) > 2 && os.Args[1] == runUML {
		runtime.LockOSThread()
		err := hideXstate()
		if err == nil {
			err = unix.Exec(os.Args[2], os.Args[2:], os.Environ())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hideXstate makes ptrace(PTRACE_GETREGSET, NT_X86_XSTATE) fail with ENODEV.
// Kernels of User-Mode Linux up to 6.12 keep 2.7 KB of a processor's extended
// state; where AMX makes it 11 KB they can't set it again and die. Without it
// they fall back to the plain floating point registers. Then AVX registers
// don't survive a page fault, so programs of the guest must not use them: see
// noAVX.
func hideXstate() error {
	const nrArch, nr, arg0, arg2 = 4, 0, 16, 32
	if runtime.GOARCH != "amd64" {
		return nil
	}
	op := func(code uint16, jt, jf uint8, k uint32) unix.SockFilter {
		return unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k}
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	f := []unix.SockFilter{
		op(load, 0, 0, nr), op(equal, 0, 5, unix.SYS_PTRACE),
		op(load, 0, 0, arg0), op(equal, 0, 3, unix.PTRACE_GETREGSET),
		op(load, 0, 0, arg2), op(equal, 0, 1, 0x202),
		op(ret, 0, 0, unix.SECCOMP_RET_ERRNO|uint32(unix.ENODEV)),
		op(ret, 0, 0, unix.SECCOMP_RET_ALLOW),
	}
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}

// noAVX goes into the guest's environment, by way of the kernel's command
// line: it keeps glibc from using AVX in memcpy and the like.
const noAVX = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-XSAVEC,-XSAVE"

// guest is one booted machine, after its end.
type guest struct {
	console string
	status  []string        // its lines
	at      []time.Duration // when each came, since the kernel's start
}

func (g *guest) said(line string) bool {
	for _, s := range g.status {
		if s == line {
			return true
		}
	}
	return false
}

func (g *guest) String() string {
	var s strings.Builder
	for i, l := range g.status {
		fmt.Fprintf(&s, "%7.1f ms %s\n", float64(g.at[i].Microseconds())/1000, l)
	}
	return s.String() + "console:\n" + g.console
}

// kernelPath is Debian's User-Mode Linux.
func kernelPath(t testing.TB) string {
	return filepath.Join(unpack(t, "user-mode-linux"), "usr/bin/linux.uml")
}

// boot runs the image with an identity until it powers off, at most a minute.
// nics are inherited as vec0, vec1, ...; input is typed on the console.
func boot(t testing.TB, image, identity *tree.Tree, nics []*os.File, macs []net.HardwareAddr, input string) *guest {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("Debian has User-Mode Linux for amd64 only")
	}
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd")
	must(t, os.WriteFile(initrd, archive(t, image, identity), 0o600))
	statusR, statusW, err := os.Pipe()
	must(t, err)
	defer statusR.Close()

	args := []string{runUML, kernelPath(t), "mem=128M", "initrd=" + initrd, "uml_dir=" + dir,
		"con0=fd:0,fd:1", "con=null", "ssl0=null,fd:3", "ssl=null", "quiet", "loglevel=4", noAVX}
	for i, m := range macs {
		args = append(args, fmt.Sprintf("vec%d:transport=fd,fd=%d,mac=%s,mtu=1500,depth=128", i, 4+i, m))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	typed, err := cmd.StdinPipe() // stays open: its end would close the console
	must(t, err)
	defer typed.Close()
	cmd.ExtraFiles = append([]*os.File{statusW}, nics...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	start := time.Now()
	must(t, cmd.Start())
	statusW.Close()
	for _, f := range nics {
		f.Close()
	}
	g := &guest{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sc := bufio.NewScanner(statusR); sc.Scan(); {
			g.status = append(g.status, strings.TrimSpace(sc.Text()))
			g.at = append(g.at, time.Since(start))
			if g.status[len(g.status)-1] == "ready" {
				_, _ = io.WriteString(typed, input)
			}
		}
	}()
	err = cmd.Wait()
	<-done
	g.console = console.String()
	if ctx.Err() != nil {
		t.Fatalf("the machine did not end: %v\n%v", err, g)
	}
	return g
}

func testKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

// checks is a service that looks at the machine from inside.
const checks = `#!/bin/sh
echo "CHECK hostname $(hostname)"
echo "CHECK links $(cd /sys/class/net; echo *)"
echo "CHECK resolv $(cat /etc/resolv.conf | tr '\n' ' ')"
echo "CHECK passwd $(cut -d: -f1 /etc/passwd | tr '\n' ' ')"
echo "CHECK keys $(ls -ld /root/.ssh /root/.ssh/authorized_keys | cut -c1-10 | tr '\n' ' ')"
p=$(pidof nc)
nsenter -t $p -n ip link set lo up
HOME=/tmp nsenter -t $p -n dbclient -y -y -i /etc/test.key root@169.254.77.2 \
	'echo "CHECK ssh $(id -un) $(cd /sys/class/net; echo *) $(cat /proc/net/dev | grep -c :)"; exit 7'
echo "CHECK status $?"
`

func TestBoot(t *testing.T) {
	key := testKey(1)
	pub, err := ssh.NewPublicKey(key.Public())
	must(t, err)
	image, rep, err := Build(Recipe{
		Arch: "amd64", Release: "bookworm", Time: released,
		Packages: []string{"busybox-static", "dropbear-bin"}, Deps: DepsELF,
		Files: []File{
			{Path: "/etc/wolffia/services/check", Content: checks, Mode: 0o755},
			{Path: "/etc/test.key", Content: string(DropbearKey(key)), Mode: 0o600},
		},
		Users:    []User{{Name: "alice", Password: "secret", Groups: []string{"dialout"}}},
		Services: []string{"dropbear", "check"},
	}, packages(t, defaultPackages...))
	must(t, err)
	if len(rep.Missing) > 0 {
		t.Errorf("missing: %v", rep.Missing)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	id, err := Identity(IdentityConfig{
		Hostname: "alice", Status: "/dev/ttyS0", Console: ConsoleSession, ConsoleDevice: "tty0",
		ControlMAC: mac, ControlAddr: netip.MustParsePrefix("169.254.77.2/30"),
		HostKey: testKey(2), AuthorizedKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))},
	})
	must(t, err)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	host := os.NewFile(uintptr(fds[0]), "host")
	defer host.Close()
	g := boot(t, image, id, []*os.File{os.NewFile(uintptr(fds[1]), "guest")}, []net.HardwareAddr{mac}, "\nexit\n")
	t.Log(g)
}

var _ = time.Second
