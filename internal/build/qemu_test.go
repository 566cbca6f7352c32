package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/host"
	"wolffia/internal/program"
)

// TestQEMU: every QEMU starts, without anything of the host's, and knows the
// machines that wolffia has.
func TestQEMU(t *testing.T) {
	for arch, machine := range map[string]string{"amd64": "q35", "i386": "q35", "arm64": "virt", "armhf": "virt", "riscv64": "virt"} {
		t.Run(arch, func(t *testing.T) {
			b, _ := builder(t)
			q, err := b.QEMU(context.Background(), arch)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			out := alone(t, q, filepath.Dir(q.Path), "-machine", "help")
			if !strings.Contains(out, "\n"+machine+" ") {
				t.Errorf("machines: %s", out)
			}
			if out := alone(t, q, filepath.Dir(q.Path), "--version"); !strings.HasPrefix(out, "QEMU emulator version "+q.Version+" ") {
				t.Errorf("version %q: %s", q.Version, out)
			}
		})
	}
}

// TestQEMUBoots: a kernel runs in a QEMU that has nothing of the host's, as far
// as it can come without a root.
func TestQEMUBoots(t *testing.T) {
	for arch, args := range map[string]string{
		"amd64":   "-M q35 console=ttyS0",
		"i386":    "-M q35 console=ttyS0",
		"armhf":   "-M virt -cpu cortex-a15 console=ttyAMA0",
		"arm64":   "-M virt -cpu cortex-a57 console=ttyAMA0",
		"riscv64": "-M virt console=ttyS0",
	} {
		t.Run(arch, func(t *testing.T) {
			b, _ := builder(t)
			k, err := b.Linux(context.Background(), KernelRequest{Release: "trixie", Arch: arch})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			q := copyQEMU(t, b, arch)
			image := k.Direct
			if image == "" {
				image = k.Path
			}
			link := filepath.Join(filepath.Dir(q.Path), "kernel")
			copyFile(t, link, image)
			words := strings.Fields(args)
			console := words[len(words)-1]
			out := alone(t, q, filepath.Dir(q.Path), append(words[:len(words)-1], "-L", q.DataDir, "-accel", "tcg", "-m", "256", "-nodefaults",
				"-nographic", "-serial", "stdio", "-no-reboot", "-kernel", link, "-append", console+" panic=-1")...)
			if !strings.Contains(out, "Linux version "+k.Release) || !strings.Contains(out, "Kernel panic - not syncing: VFS") {
				t.Errorf("console: %s", out)
			}
		})
	}
}

// copyQEMU installs a QEMU in a folder of the test's own, so that more can be
// put beside it.
func copyQEMU(t *testing.T, b *Builder, arch string) *QEMU {
	t.Helper()
	lock, err := b.Lock(context.Background(), qemuRequest(qemus[arch]))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := b.installQEMU(context.Background(), dir, qemus[arch], lock); err != nil {
		t.Fatal(err)
	}
	p := program.At(dir, qemus[arch].program)
	return &QEMU{Argv: p.Argv(), Path: p.Path, DataDir: filepath.Join(dir, dataDir)}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// alone runs a QEMU with the folder that it lies in as its whole world, where
// the host lets us change the root, and otherwise with an empty environment.
func alone(t *testing.T, q *QEMU, root string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	argv := append(append([]string{}, q.Argv...), args...)
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 || host.New().UserNamespaces() == nil {
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], root, "")
		}
		attr.Chroot = root
		if os.Getuid() != 0 {
			attr.Cloneflags = syscall.CLONE_NEWUSER
			attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{}, "/", attr
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	runtime.LockOSThread() // Pdeathsig is the thread's
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v, %s", strings.Join(argv, " "), err, out.String())
	}
	return out.String()
}

// TestFirmware: flash images of the size that the machines want.
func TestFirmware(t *testing.T) {
	for arch, size := range map[string]int64{"amd64": 4 << 20, "i386": 4 << 20, "arm64": 2 * 64 << 20, "armhf": 2 * 64 << 20, "riscv64": 2 * 32 << 20} {
		b, _ := builder(t)
		f, err := b.Firmware(context.Background(), arch)
		if err != nil {
			t.Error(err)
			continue
		}
		var sum int64
		for _, name := range []string{f.Code, f.Vars} {
			st, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			sum += st.Size()
			if blocks := st.Sys().(*syscall.Stat_t).Blocks * 512; blocks > 8<<20 {
				t.Errorf("%s takes %d bytes", name, blocks)
			}
		}
		if sum != size {
			t.Errorf("%s: %d bytes, want %d", arch, sum, size)
		}
		f.Close()
	}
	b, _ := builder(t)
	if _, err := b.Firmware(context.Background(), "sparc"); !errors.Is(err, ErrNoFirmware) {
		t.Error(err)
	}
	if _, err := b.QEMU(context.Background(), "sparc"); err == nil {
		t.Error("a QEMU for sparc")
	}
}
