package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"wolffia/internal/access"
	"wolffia/internal/debug"
	"wolffia/internal/event"
	"wolffia/internal/machine"
	"wolffia/internal/supervisor"
)

// debugKernel debugs the kernel of a machine, in which argv runs meanwhile.
func (o *gdbOptions) debugKernel(ctx context.Context, d *debugger, p *project, r *ready, argv []string) error {
	if err := o.vmlinux(d, p, r); err != nil {
		return err
	}
	s, err := supervisor.Start(ctx, r.config)
	if err != nil {
		return err
	}
	defer s.Close()
	target, ok := s.Machine().(machine.GDBServer)
	if !ok {
		return fmt.Errorf("the kernel of machine %q can't be debugged: the backend %s has no way to do it; use --backend qemu", s.Name(), r.config.Backend.Name())
	}
	socket, err := target.GDBServer(ctx)
	if err != nil {
		return err
	}
	dir, free, err := socketName(filepath.Dir(socket), filepath.Base(socket))
	if err != nil {
		return err
	}
	defer free()
	d.session.Socket = dir
	d.screen.Pause()
	var meanwhile sync.WaitGroup
	defer meanwhile.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(argv) > 0 {
		meanwhile.Go(func() {
			if err := runBeside(ctx, d.env, s, argv); err != nil && ctx.Err() == nil {
				d.screen.Emit(event.Event{Kind: event.Warn, Task: "run", Subject: argv[0], Message: err.Error()})
			}
		})
	}
	return d.run(ctx)
}

// vmlinux finds the symbols of the kernel.
func (o *gdbOptions) vmlinux(d *debugger, p *project, r *ready) error {
	release := ""
	if r.kernel != nil { // firmware boots one that nothing is known of
		release = r.kernel.Release
	}
	for _, s := range o.symbols {
		file, err := debug.KernelSymbols(s, release)
		if err != nil {
			return &usageError{err}
		}
		d.session.File = file
	}
	own := r.config.Machine.Kernel
	if own == "" || d.session.File != "" {
		return nil
	}
	own = inDir(p.builder.Dir, own)
	if !isFolder(own) {
		return nil
	}
	file, err := debug.KernelSymbols(own, release)
	if err != nil {
		return nil // the image may be all that was kept
	}
	// The build has put scripts for gdb beside it (CONFIG_GDB_SCRIPTS).
	d.session.File, d.session.Trusted = file, []string{own}
	return nil
}

// runBeside runs a command in the machine while its kernel is debugged.
func runBeside(ctx context.Context, env Env, s *supervisor.Session, argv []string) error {
	client, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := s.Ready(ctx); err != nil {
		return err
	}
	status, err := client.Run(ctx, access.Command{Argv: argv, Stdout: env.Stdout, Stderr: env.Stderr})
	if err == nil && status.Code != 0 {
		err = errors.New(argv[0] + " in the machine ended with status " + fmt.Sprint(status.Code))
	}
	return err
}
