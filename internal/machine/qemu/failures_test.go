package qemu

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wolffia/internal/host"
	"wolffia/internal/kernel"
	"wolffia/internal/machine"
	"wolffia/internal/machine/machinetest"
)

// fixtures are the suite's for an architecture.
func fixtures(t testing.TB, b Backend, arch string) machinetest.Fixtures {
	t.Helper()
	return machinetest.Debian(t, arch, b.Guest(arch).Modules)
}

func specOf(t testing.TB, f machinetest.Fixtures, init string) machine.Spec {
	t.Helper()
	return machine.Spec{
		Name: "failing", Arch: f.Arch, Kernel: f.Kernel, Dir: t.TempDir(), Initramfs: []string{f.Initramfs(t, init), f.Modules},
	}
}

// report is what a machine that does not come up tells.
func report(t *testing.T, b Backend, spec machine.Spec) *machine.StartError {
	t.Helper()
	m, err := b.Start(t.Context(), spec)
	if err != nil {
		var e *machine.StartError
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		return e
	}
	watch := time.AfterFunc(2*time.Minute, m.Kill)
	defer watch.Stop()
	exit := m.Wait()
	if exit.Clean {
		t.Errorf("clean exit %+v", exit)
	}
	return exit.Err(spec.Name, "init")
}

// A kernel that can't run here is refused, with what it is, before anything
// starts.
func TestWrongKernels(t *testing.T) {
	b := backend(t, "amd64")
	f := fixtures(t, b, "amd64")
	good, err := os.ReadFile(f.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	arm := machinetest.Debian(t, "arm64", boards["arm64"].modules)
	uml := machinetest.UML(t)
	for name, c := range map[string]struct{ kernel, cause string }{
		"other architecture": {arm.Kernel, "the kernel is for arm64, and the machine is amd64"},
		"user mode":          {uml.Kernel, "User-Mode Linux"},
		"cut short":          {machinetest.WriteFile(t, good[:len(good)/2]), "can't be booted"},
		"empty":              {machinetest.WriteFile(t, nil), "can't be booted"},
		"garbage":            {machinetest.WriteFile(t, make([]byte, 1<<20)), "can't be booted"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			spec := specOf(t, f, "poweroff -f")
			spec.Kernel = c.kernel
			e := report(t, b, spec)
			t.Logf("%v; %s", e, e.Fix)
			if e.Stage != "start" || !strings.Contains(e.Cause, c.cause) || e.Fix == "" || e.Exit != "" {
				t.Errorf("%+v", e)
			}
		})
	}
}

// A kernel that is damaged where only running it shows that ends with a report,
// or is found to give no sign of life.
func TestSilentKernels(t *testing.T) {
	t.Run("restarts", func(t *testing.T) {
		b := backend(t, "amd64")
		f := fixtures(t, b, "amd64")
		spec := specOf(t, f, "poweroff -f")
		// At once after the PVH entry: a fault without a table of handlers.
		spec.Kernel = damaged(t, f.Kernel, func(k []byte) {
			copy(k[0x200000:], bytes.Repeat([]byte{0x0f}, 1<<16))
		})
		if e := report(t, b, spec); e.Stage != "kernel" || !strings.Contains(e.Cause, "without a word") || e.Fix == "" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("spins", func(t *testing.T) {
		b := backend(t, "arm64")
		f := fixtures(t, b, "arm64")
		spec := specOf(t, f, "poweroff -f")
		spec.Kernel = damaged(t, f.Kernel, func(k []byte) { copy(k[4:], "\x00\x00\x00\x14") }) // b .
		m, err := b.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Wait()
		defer m.Kill()
		x, ok := m.(machine.Examiner).Examine(t.Context())
		if !ok || x.Stage != "kernel" || !strings.Contains(x.Cause, "no sign of life") || x.Fix == "" {
			t.Errorf("%+v", x)
		}
	})
}

func damaged(t *testing.T, path string, change func([]byte)) string {
	t.Helper()
	k, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(k)
	return machinetest.WriteFile(t, k)
}

// A kernel that is up is seen to be, though it has said nothing.
func TestExamineLiving(t *testing.T) {
	b := backend(t, "amd64")
	f := fixtures(t, b, "amd64")
	m, err := b.Start(t.Context(), specOf(t, f, "echo ready >/dev/ttyS1; sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Wait()
	defer m.Kill()
	line := make([]byte, 6)
	if _, err := m.Status().Read(line); err != nil {
		t.Fatal(err)
	}
	if touched, err := m.(*running).touched(t.Context()); !touched || err != nil {
		t.Errorf("%v, %v", touched, err)
	}
	if x, ok := m.(machine.Examiner).Examine(t.Context()); ok {
		t.Errorf("%+v", x)
	}
}

// QEMU refuses something, or is no QEMU.
func TestQEMURefuses(t *testing.T) {
	good := backend(t, "amd64")
	f := fixtures(t, good, "amd64")
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Backend, *machine.Spec)
		cause  string
	}{
		"no such file":   {func(b *Backend, _ *machine.Spec) { b.Program.Argv = []string{"/nonexistent/qemu"} }, "is not there"},
		"not a program":  {func(b *Backend, _ *machine.Spec) { b.Program.Argv = []string{disk} }, "can't be executed"},
		"unknown option": {func(b *Backend, _ *machine.Spec) { b.Program.Argv = append(b.Program.Argv, "-nonsense") }, "invalid option"},
		"no firmware": {func(b *Backend, _ *machine.Spec) {
			b.Program.Data = t.TempDir()
			b.Program.Argv = append(b.Program.Argv, "-bios", "none.bin")
		}, "firmware files are missing"},
		"not qcow2": {func(_ *Backend, s *machine.Spec) {
			s.Disks = []machine.Disk{{Path: disk, Format: machine.QCOW2}}
		}, "no qcow2 image"},
		"UEFI missing": {func(b *Backend, s *machine.Spec) {
			*s = machine.Spec{Name: s.Name, Arch: s.Arch, Dir: s.Dir, Firmware: machine.FirmwareUEFI, Disks: []machine.Disk{{Path: disk}}}
		}, "UEFI firmware is missing"},
		"no BIOS": {func(b *Backend, s *machine.Spec) {
			*s = machine.Spec{Name: s.Name, Arch: "arm64", Dir: s.Dir, Firmware: machine.FirmwareBIOS, Disks: []machine.Disk{{Path: disk}}}
		}, "has no BIOS"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			b, spec := good, specOf(t, f, "poweroff -f")
			b.Program.Argv = append([]string(nil), b.Program.Argv...)
			c.change(&b, &spec)
			e := report(t, b, spec)
			t.Logf("%v; %s (%s)", e, e.Fix, e.Exit)
			if e.Stage != "start" || !strings.Contains(e.Cause, c.cause) {
				t.Errorf("%+v", e)
			}
		})
	}
}

// KVM that is not there is said, with the way around it.
func TestKVMRefused(t *testing.T) {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		f.Close()
		return // whether it works then is the probe's to say: see Accelerate
	}
	b := backend(t, "amd64")
	b.Accel = KVM
	if e := report(t, b, specOf(t, fixtures(t, b, "amd64"), "poweroff -f")); e.Stage != "start" || !strings.Contains(e.Cause, "KVM can't be used") || e.Fix == "" {
		t.Errorf("%+v", e)
	}
}

// Two machines can't write to one disk.
func TestDiskInUse(t *testing.T) {
	b := backend(t, "amd64")
	f := fixtures(t, b, "amd64")
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := specOf(t, f, "sleep 1000")
	spec.Disks = []machine.Disk{{Path: disk, Persistent: true}}
	m, err := b.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Wait()
	defer m.Kill()
	<-m.(*running).began
	spec.Dir = t.TempDir()
	if e := report(t, b, spec); e.Stage != "start" || !strings.Contains(e.Cause, "in use by another machine") || e.Fix == "" {
		t.Errorf("%+v", e)
	}
}

func TestFind(t *testing.T) {
	backend(t, "amd64")
	p, err := Find(t.Context(), "amd64", "relative:/nonexistent:"+os.Getenv("PATH"))
	if err != nil || p.Major < 7 || len(p.Argv) != 1 || !filepath.IsAbs(p.Argv[0]) {
		t.Errorf("%+v, %v", p, err)
	}
	var missing *host.UnsupportedError
	if _, err := Find(t.Context(), "riscv64", "/nonexistent"); !errors.As(err, &missing) || !strings.Contains(missing.Fix, "qemu-system-misc") {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	for name, says := range map[string]string{
		"old":  `printf '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 1, "major": 7}}}}\n'`,
		"odd":  `echo hello`,
		"dead": `echo "no such thing" >&2; exit 1`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+says+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(t.Context(), "amd64", dir); !errors.As(err, &missing) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
	}
	if _, err := Find(t.Context(), "sparc64", "/usr/bin"); err == nil {
		t.Error("QEMU for an unknown architecture")
	}
}

func TestAccelerate(t *testing.T) {
	no := errors.New("no")
	if a, err := Accelerate("", func() error { return nil }); a != KVM || err != nil {
		t.Errorf("%v, %v", a, err)
	}
	if a, err := Accelerate("", func() error { return no }); a != TCG || err != no {
		t.Errorf("%v, %v", a, err)
	}
	other := map[string]string{"riscv64": "arm64"}[hostArch()]
	if other == "" {
		other = "riscv64"
	}
	if a, err := Accelerate(other, func() error { return nil }); a != TCG || err != nil {
		t.Errorf("%v, %v", a, err)
	}
}

// The script runs the machine without wolffia.
func TestScript(t *testing.T) {
	b := backend(t, "amd64")
	f := fixtures(t, b, "amd64")
	spec := specOf(t, f, `echo "hello from $(cat /sys/class/net/eth0/address)"; head -c 4 /dev/vda; poweroff -f`)
	spec.Name = "by hand"
	disk := filepath.Join(t.TempDir(), "it's a disk, here.img")
	if err := os.WriteFile(disk, append([]byte("disk"), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	spec.Disks = []machine.Disk{{Path: disk}}
	spec.NICs = []machine.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 9, 1}}}
	script, err := b.Script(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	tmp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"hello from 02:00:00:00:09:01", "disk"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%v, no %q in %q\n%s", err, want, out, script)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// An image that kernel.Uncompress makes for armhf has no header, and is taken.
func TestFlatARM(t *testing.T) {
	b := backend(t, "armhf")
	f := machinetest.Debian(t, "armhf", boards["armhf"].modules)
	if _, err := b.Command(specOf(t, f, "true")); err != nil {
		t.Error(err)
	}
	spec := specOf(t, f, "true")
	spec.Kernel = machinetest.WriteFile(t, make([]byte, 1<<20))
	var e *machine.StartError
	var bad *kernel.NotKernelError
	if _, err := b.Command(spec); !errors.As(err, &e) || !errors.As(err, &bad) {
		t.Error(err)
	}
}
