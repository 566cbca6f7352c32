package cli

import (
	"errors"
	"fmt"
	"os"

	"wolffia/internal/build"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/machine/qemu"
	"wolffia/internal/machine/uml"
)

// foreseeKept says which machines of a plan up would refuse to start, because what
// is kept of their disks no longer fits. It makes nothing and asks nobody: what it
// takes more than that to know is left to up.
func (o *upOptions) foreseeKept(env Env, d labDir, steps []planStep) error {
	keep := d.join(labDisks)
	if _, err := os.Stat(keep); err != nil {
		return nil
	}
	p, err := o.open(env, event.Discard)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range steps {
		if s.Kind == "machine" && (s.Action == lab.ActionStart || s.Action == lab.ActionRestart) {
			errs = append(errs, p.keptFits(env, p.Machines[s.Name], keep))
		}
	}
	return errors.Join(errs...)
}

// keptFits looks whether what is kept of a machine's disks in the folder keep fits
// the machine as the file has it now.
func (p *project) keptFits(env Env, m *lab.Machine, keep string) error {
	found, err := p.checkDisks(env, m)
	if err != nil {
		return err
	}
	img := p.imageFor(m)
	onUML, format := prefersUML(m, img.Arch), qemu.Overlays
	if onUML {
		format = uml.Overlays
	}
	if m.Boot == lab.BootKernel && (m.Kernel != "" || build.IsPath(img.Kernel)) && m.Backend == lab.BackendAuto {
		return nil // what runs it is for the kernel to say
	}
	if m.Boot != lab.BootKernel || m.Root == lab.RootDisk {
		root := machine.Disk{Overlay: rootOverlay(keep, m, 0), Path: "image " + m.Image}
		key, fresh, err := p.builder.Key(img, rootFormat(m))
		if root.Base = key; fresh {
			root.Base = "none yet"
		}
		if root.Base == "" {
			root.Path = ""
		}
		if err == nil {
			err = machine.CheckOverlay(root, format)
		}
		if err != nil {
			return refusal(m, err)
		}
	}
	for i, k := range m.Disks {
		image, made, err := p.planDisk(env, m, i, found[i], onUML, keep)
		switch {
		case err != nil:
		case made != nil:
			_, err = made.isKept(keptName(keep, m, k))
		default:
			err = machine.CheckOverlay(image, format)
		}
		switch {
		case errors.As(err, new(*diskMistake)):
			return p.diskError(m, i, err)
		case err != nil:
			return refusal(m, err)
		}
	}
	return nil
}

// refusal is what up would report of a machine.
func refusal(m *lab.Machine, err error) error {
	err = fmt.Errorf("up would refuse machine %s: %w", m.Name, err)
	var fixed interface{ Fix() string }
	if errors.As(err, &fixed) {
		err = fmt.Errorf("%w; %s", err, fixed.Fix())
	}
	return err
}
