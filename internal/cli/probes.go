package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"wolffia/internal/build"
	"wolffia/internal/host"
	"wolffia/internal/machine/qemu"
)

// kindProbe is what was found out about this host, in the store: asking takes
// from a tenth of a second (QEMU's version) to a whole one (a KVM that does not
// work), at every start of a machine.
const kindProbe = "probe"

// remember gives what find found the last time that all of about was the same.
// A cache that can't be read or written only costs time.
func remember[T any](ctx context.Context, p *project, find func() (T, error), about ...string) (T, error) {
	sum := sha256.Sum256([]byte(strings.Join(about, "\x00")))
	key := hex.EncodeToString(sum[:])
	var found T
	if path, ok := p.store.Get(kindProbe, key); ok {
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &found) == nil {
			return found, nil
		}
	}
	found, err := find()
	if err == nil {
		_, _ = p.store.Replace(ctx, kindProbe, key, func(f *os.File) error { return json.NewEncoder(f).Encode(found) })
	}
	return found, err
}

// identity tells one state of a file from another.
func identity(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return path
	}
	return fmt.Sprint(path, info.Size(), info.ModTime().UnixNano())
}

// hostQEMU finds the host's own QEMU for an architecture.
func (p *project) hostQEMU(ctx context.Context, env Env, arch string) (qemu.Program, error) {
	search := env.Getenv("PATH")
	about := []string{"qemu", search}
	for _, dir := range filepath.SplitList(search) {
		name := filepath.Join(dir, qemu.ProgramName(arch))
		if _, err := exec.LookPath(name); err == nil {
			about = append(about, identity(name))
		}
	}
	if len(about) == 2 { // none: nothing to remember
		return qemu.Find(ctx, arch, search)
	}
	return remember(ctx, p, func() (qemu.Program, error) { return qemu.Find(ctx, arch, search) }, about...)
}

// probedQEMU makes a QEMU of the store ready for use.
func (p *project) probedQEMU(ctx context.Context, q *build.QEMU) (qemu.Program, error) {
	program := qemu.Program{Argv: q.Argv, Data: q.DataDir}
	return remember(ctx, p, func() (qemu.Program, error) { return qemu.Probe(ctx, program) }, append([]string{"qemu", q.Path}, q.Argv...)...)
}

// kvm says whether guests run on this host's processor: nil, or why not. The
// answer holds until the host is started again or the device changes.
func (p *project) kvm() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return p.host.KVM()
	}
	type answer struct{ Why, Fix string }
	device := ""
	if info, err := os.Stat("/dev/kvm"); err == nil {
		device = fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
	}
	a, _ := remember(context.Background(), p, func() (answer, error) {
		err := p.host.KVM()
		var unsupported *host.UnsupportedError
		switch {
		case err == nil:
			return answer{}, nil
		case errors.As(err, &unsupported):
			return answer{unsupported.Why, unsupported.Fix}, nil
		}
		return answer{Why: err.Error()}, nil
	}, "kvm", string(boot), device, fmt.Sprint(os.Getuid(), os.Getgid()))
	if a.Why == "" {
		return nil
	}
	return &host.UnsupportedError{Feature: "KVM", Why: a.Why, Fix: a.Fix}
}
