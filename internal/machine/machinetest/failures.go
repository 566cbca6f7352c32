package machinetest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/machine"
	"wolffia/internal/tree"
)

// failures: each machine here fails to come up in a way of its own, ends by
// itself, and says why.
func (s suite) failures(t *testing.T) {
	image := func(init *tree.Node) func(*testing.T, *machine.Spec) {
		return func(t *testing.T, spec *machine.Spec) {
			r := s.f.Root(t)
			if init != nil {
				if err := r.Put("/init", init); err != nil {
					t.Fatal(err)
				}
			}
			spec.Initramfs = []string{WriteInitramfs(t, r)}
		}
	}
	script := func(text string) func(*testing.T, *machine.Spec) {
		return image(tree.File(0o755, tree.Bytes("#!/bin/busybox sh\n"+text)))
	}
	damage := func(change func([]byte) []byte) func(*testing.T, *machine.Spec) {
		return func(t *testing.T, spec *machine.Spec) {
			b, err := os.ReadFile(s.f.Initramfs(t, "poweroff -f"))
			if err != nil {
				t.Fatal(err)
			}
			spec.Initramfs = []string{WriteFile(t, change(b))}
		}
	}
	for _, c := range []struct {
		name  string
		spec  func(*testing.T, *machine.Spec)
		stage string
		cause string // part of it
	}{
		{"NoInit", image(nil), "kernel", "no /init in the initramfs"},
		{"NoInitramfs", func(*testing.T, *machine.Spec) {}, "kernel", "no /init in the initramfs"},
		{"InitExits", script("exit 3"), "init", "exit code 0x00000300"},
		{"InitExitsZero", script("exit 0"), "init", "init ended (status 0)"},
		{"InitCrashes", script("kill -SEGV $$"), "init", "ended"},
		{"NoInterpreter", image(tree.File(0o755, tree.Bytes("#!/bin/nothing\n"))), "init", "not in the image"},
		{"NotExecutable", image(tree.File(0o644, tree.Bytes("#!/bin/busybox sh\n"))), "init", "not executable"},
		{"WrongArchitecture", image(tree.File(0o755, tree.Bytes(otherELF))), "init", "architecture"},
		{"Garbage", damage(func(b []byte) []byte { return make([]byte, 8192) }), "kernel", "no /init in the initramfs"},
		{"NotAnArchive", damage(func(b []byte) []byte { return []byte(strings.Repeat("hello ", 1000)) }), "kernel", "the initramfs is damaged"},
		{"CutShort", damage(func(b []byte) []byte { return b[:len(b)/2] }), "", ""},
		{"TinyMemory", func(t *testing.T, spec *machine.Spec) {
			r := s.f.Root(t)
			big := tree.File(0o644, tree.Bytes(make([]byte, 24<<20)))
			if err := r.Put("/big", big); err != nil {
				t.Fatal(err)
			}
			spec.Initramfs = []string{WriteInitramfs(t, r)}
			spec.Memory = s.f.Memory - 16<<20
		}, "", "memory"},
		{"TinierMemory", func(t *testing.T, spec *machine.Spec) { spec.Memory = 17 << 20 }, "", "memory"},
		{"MemoryEaten", func(t *testing.T, spec *machine.Spec) {
			script("mount -t tmpfs -o size=2g t /tmp; x=0123456789abcdef; x=$x$x$x$x; x=$x$x$x$x; x=$x$x$x$x; x=$x$x$x$x; while :; do echo $x$x$x$x; done >/tmp/x")(t, spec)
			spec.Memory = s.f.Memory
		}, "kernel", "memory"},
		{"ProcessKilledForMemory", func(t *testing.T, spec *machine.Spec) {
			script("mount -t tmpfs -o size=2g t /tmp; mount -t devtmpfs d /dev; head -c 1000000000 /dev/zero >/tmp/x")(t, spec)
			spec.Memory = s.f.Memory
		}, "init", "ran out of memory"},
		{"Panic", script("mount -t proc p /proc; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 1000"), "kernel", "sysrq"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := s.spec(t, "")
			c.spec(t, &spec)
			e := s.fails(t, spec)
			if c.stage != "" && e.Stage != c.stage || !strings.Contains(e.Cause, c.cause) {
				t.Errorf("got %s: %s, want %s: %s\n%s", e.Stage, e.Cause, c.stage, c.cause, strings.Join(e.Tail, "\n"))
			}
		})
	}
}

// fails runs a machine that does not come up, and gives the report.
func (s suite) fails(t *testing.T, spec machine.Spec) *machine.StartError {
	t.Helper()
	m, err := s.b.Start(t.Context(), spec)
	var e *machine.StartError
	switch {
	case errors.As(err, &e):
	case err != nil:
		t.Fatal(err)
	default:
		s.watch(t, spec, m)
		exit := m.Wait()
		if exit.Clean {
			t.Errorf("clean exit %+v", exit)
		}
		if len(exit.Tail) == 0 {
			t.Errorf("no console lines in %+v", exit)
		}
		e = exit.Err(spec.Name, "init")
	}
	t.Logf("%v; %s (%s)", e, e.Fix, e.Exit)
	if e.Cause == "" {
		t.Errorf("no cause in %+v", e)
	}
	return e
}

// examine: a machine that lives on without getting anywhere says why, if its
// kernel has.
func (s suite) examine(t *testing.T) {
	m := s.start(t, s.spec(t, `echo waiting; read line; echo "<3>Initramfs unpacking failed: write error" >/dev/kmsg; sleep 1000`))
	until(t, m.Console(), "waiting")
	x, ok := m.(machine.Examiner).Examine(t.Context())
	if ok {
		t.Errorf("nothing is wrong yet: %+v", x)
	}
	if _, err := io.WriteString(m.Console(), "on\n"); err != nil {
		t.Fatal(err)
	}
	until(t, m.Console(), "failed: write error")
	x, ok = m.(machine.Examiner).Examine(t.Context())
	if !ok || x.Stage != "kernel" || !strings.Contains(x.Cause, "does not fit into the machine's memory") || x.Fix == "" {
		t.Errorf("%v, %+v", ok, x)
	}
}

// otherELF begins like a program for a machine that no backend has (s390).
const otherELF = "\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16\x00\x00\x00\x01" +
	"\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x40\x00\x38\x00\x01\x00\x40\x00\x00\x00\x00"

// badSpecs are refused at once and leave nothing.
func (s suite) badSpecs(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for name, change := range map[string]func(*machine.Spec){
		"no kernel":               func(p *machine.Spec) { p.Kernel = filepath.Join(p.Dir, "missing") },
		"kernel is text":          func(p *machine.Spec) { p.Kernel = p.Initramfs[0] },
		"initramfs missing":       func(p *machine.Spec) { p.Initramfs = []string{filepath.Join(p.Dir, "missing")} },
		"segment missing":         func(p *machine.Spec) { p.Initramfs = append(p.Initramfs, filepath.Join(p.Dir, "missing")) },
		"too little memory":       func(p *machine.Spec) { p.Memory = 1 << 20 },
		"negative memory":         func(p *machine.Spec) { p.Memory = -1 },
		"all the memory":          func(p *machine.Spec) { p.Memory = 1 << 50 },
		"folder missing":          func(p *machine.Spec) { p.Dir = filepath.Join(p.Dir, "missing") },
		"group MAC":               func(p *machine.Spec) { p.NICs = []machine.NIC{{MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}} },
		"short MAC":               func(p *machine.Spec) { p.NICs = []machine.NIC{{MAC: mac[:5]}} },
		"no MAC":                  func(p *machine.Spec) { p.NICs = []machine.NIC{{}} },
		"disk missing":            func(p *machine.Spec) { p.Disks = []machine.Disk{{Path: filepath.Join(p.Dir, "missing")}} },
		"disk is a folder":        func(p *machine.Spec) { p.Disks = []machine.Disk{{Path: p.Dir}} },
		"disk of no known format": func(p *machine.Spec) { p.Disks = []machine.Disk{{Path: p.Kernel, Format: "vmdk"}} },
		"relative overlay":        func(p *machine.Spec) { p.Disks = []machine.Disk{{Path: p.Kernel, Overlay: "x"}} },
		"overlay in no folder":    func(p *machine.Spec) { p.Disks = []machine.Disk{{Path: p.Kernel, Overlay: p.Kernel + "/x"}} },
		"overlay and persistent": func(p *machine.Spec) {
			p.Disks = []machine.Disk{{Path: p.Kernel, Overlay: p.Dir + "/x", Persistent: true}}
		},
		"one overlay, two disks": func(p *machine.Spec) {
			p.Disks = []machine.Disk{{Path: p.Kernel, Overlay: p.Dir + "/x"}, {Path: p.Kernel, Overlay: p.Dir + "/x"}}
		},
		"share missing":           func(p *machine.Spec) { p.Shares = []machine.Share{{Tag: "a", Path: p.Dir + "/missing"}} },
		"share is a file":         func(p *machine.Spec) { p.Shares = []machine.Share{{Tag: "a", Path: p.Kernel}} },
		"share without a tag":     func(p *machine.Spec) { p.Shares = []machine.Share{{Path: p.Dir}} },
		"share with a bad tag":    func(p *machine.Spec) { p.Shares = []machine.Share{{Tag: "../a", Path: p.Dir}} },
		"relative share":          func(p *machine.Spec) { p.Shares = []machine.Share{{Tag: "a", Path: "a"}} },
		"two shares, one tag":     func(p *machine.Spec) { p.Shares = []machine.Share{{Tag: "a", Path: p.Dir}, {Tag: "a", Path: p.Dir}} },
		"channel with a bad name": func(p *machine.Spec) { p.Channels = []string{"a,b"} },
		"two channels, one name":  func(p *machine.Spec) { p.Channels = []string{"a", "a"} },
		"too many channels": func(p *machine.Spec) {
			for i := range 100 {
				p.Channels = append(p.Channels, fmt.Sprint("channel", i))
			}
		},
		"too many shares": func(p *machine.Spec) {
			for i := range 100 {
				p.Shares = append(p.Shares, machine.Share{Tag: fmt.Sprint("a", i), Path: p.Dir})
			}
		},
		"too many disks": func(p *machine.Spec) {
			for range 30 {
				p.Disks = append(p.Disks, machine.Disk{Path: p.Kernel})
			}
		},
		"firmware and kernel":   func(p *machine.Spec) { p.Firmware = machine.FirmwareBIOS },
		"firmware without disk": func(p *machine.Spec) { p.Firmware, p.Kernel, p.Initramfs = machine.FirmwareUEFI, "", nil },
		"unknown firmware": func(p *machine.Spec) {
			*p = machine.Spec{Name: p.Name, Arch: p.Arch, Dir: p.Dir, Firmware: "coreboot", Disks: []machine.Disk{{Path: p.Kernel}}}
		},
		"impossible MTU": func(p *machine.Spec) { p.NICs = []machine.NIC{{MAC: mac, MTU: 70000}} },
		"too many interfaces": func(p *machine.Spec) {
			for range 200 {
				p.NICs = append(p.NICs, machine.NIC{MAC: mac})
			}
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			spec := s.spec(t, "poweroff -f")
			change(&spec)
			before := openFiles(t)
			m, err := s.b.Start(t.Context(), spec)
			if err == nil {
				m.Kill()
				m.Wait()
				t.Fatal("it starts")
			}
			t.Log(err)
			if after := openFiles(t); after > before {
				t.Errorf("%d open files, %d before", after, before)
			}
			if left := Leftovers(spec); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}
