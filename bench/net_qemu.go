package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"wolffia/internal/image/tarball"
	"wolffia/internal/kernel"
	"wolffia/internal/vnet/wire"
)

// pcKernel is the package that the emulated PC's kernel comes from.
const pcKernel = "linux-image-cloud-amd64"

// netQEMU compares emulated PCs without KVM: the same kernel and programs on
// QEMU's own user network, and on wolffia's switch and router by a stream
// socket (-netdev stream).
func netQEMU(ctx context.Context, b *bench) (*result, error) {
	port, stop, err := b.iperfServer(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	pc, err := b.newPC(ctx)
	if err != nil {
		return nil, err
	}
	ours := func(ctx context.Context) ([]float64, error) {
		near, guest, err := wire.StreamPair()
		if err != nil {
			return nil, err
		}
		defer guest.Close()
		stop, err := router(near, smallMTU)
		if err != nil {
			return nil, err
		}
		defer stop()
		return b.qemu(ctx, pc, port, []*os.File{guest}, "stream,id=n0,addr.type=fd,addr.str=4")
	}
	theirs := func(ctx context.Context) ([]float64, error) {
		return b.qemu(ctx, pc, port, nil, "user,id=n0")
	}
	passt := func(ctx context.Context) ([]float64, error) { return b.qemuOnPasst(ctx, pc, port) }
	x, err := b.alternate(ctx, ours, theirs, passt)
	if err != nil {
		return nil, err
	}
	r := &result{notes: []string{"QEMU emulates the processor (TCG), which bounds both sides; its user network knows no other MTU than 1500"}}
	r.rates(fmt.Sprintf("QEMU, MTU %d", smallMTU), x[0], "QEMU's user network", x[1])
	r.rates(fmt.Sprintf("QEMU, MTU %d", smallMTU), x[0], "passt", x[2])
	return r, nil
}

// qemuOnPasst boots the PC once beside passt.
func (b *bench) qemuOnPasst(ctx context.Context, p *pc, port string) ([]float64, error) {
	dir, err := os.MkdirTemp(b.dir, "passt-")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "s")
	passt, err := launch(nil, exec.CommandContext(ctx, "passt", append(passtArgs(smallMTU), "-s", socket)...))
	if err != nil {
		return nil, err
	}
	defer passt.stop()
	for range 500 {
		if _, err = os.Stat(socket); err == nil {
			return b.qemu(ctx, p, port, nil, "stream,id=n0,server=off,addr.type=unix,addr.path="+socket)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("passt did not start: %w", err)
}

// pc is what an emulated PC boots.
type pc struct{ kernel, initramfs string }

// newPC builds a PC's image with wolffia, and takes its kernel and the modules
// of its network card out of a second one.
func (b *bench) newPC(ctx context.Context) (*pc, error) {
	dir, err := os.MkdirTemp(b.dir, "pc-")
	if err != nil {
		return nil, err
	}
	p := &pc{kernel: filepath.Join(dir, "vmlinuz"), initramfs: filepath.Join(dir, "initramfs.cpio")}
	for _, c := range [][]string{
		{b.wolffia, "build", "-q", "--deps", "packages", "-p", "iperf3", "-o", p.initramfs},
		{b.wolffia, "build", "-q", "--deps", "packages", "-p", pcKernel, "-o", filepath.Join(dir, "kernel.tar")},
	} {
		if _, err := (command{argv: c}).run(ctx); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(filepath.Join(dir, "kernel.tar"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := tarball.Read(f, tarball.ReadOptions{})
	if err != nil {
		return nil, err
	}
	k, err := kernel.FromPackage(t)
	if err != nil {
		return nil, err
	}
	mods, err := k.Closure([]string{"virtio_pci", "virtio_net"})
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for i, m := range mods { // the shell's * sorts them in load order
		files[fmt.Sprintf("/modules/%02d-%s", i, path.Base(m.Path))] = m.Data
	}
	const most = 64 << 20
	image, err := t.ReadFile("/boot/vmlinuz-"+k.Release, most)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.kernel, image, 0o644); err != nil {
		return nil, err
	}
	return p, addMeasure(p.initramfs, files)
}

// qemu boots the PC once.
func (b *bench) qemu(ctx context.Context, p *pc, port string, files []*os.File, netdev string) ([]float64, error) {
	parameters := "console=ttyS1 quiet panic=-1"
	for _, e := range b.guestEnv(port, "eth0", smallMTU) {
		parameters += " " + e
	}
	c := command{argv: []string{
		"qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", guestMemory, "-nodefaults",
		"-display", "none", "-no-reboot", "-kernel", p.kernel, "-initrd", p.initramfs, "-append", parameters,
		"-chardev", "file,id=s0,path=/proc/self/fd/3", "-serial", "chardev:s0", "-serial", "stdio",
		"-netdev", netdev, "-device", "virtio-net-pci,netdev=n0,romfile=",
	}}
	return b.guestReport(ctx, c, files, func(start func() error) error { return start() })
}
