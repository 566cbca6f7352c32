// Package supervisor owns what runs: it gives machines their identity, starts
// them, joins their cards to networks and the networks to gateways, watches them
// come up, lets people in, and ends all of it.
//
// A [Session] is one throwaway machine, as `wolffia run` has it:
//
//	s, err := supervisor.Start(ctx, cfg)
//	defer s.Close()
//	err = s.Ready(ctx)
//
// A [Lab] is the machines and networks of one file, which come and go while it
// runs, as `wolffia up` has them:
//
//	l := supervisor.Open(supervisor.LabConfig{Dir: dir, Prepare: prepare})
//	defer l.Close(ctx)
//	err = l.Apply(ctx, spec)
package supervisor

import "context"

// Session is one machine with networks of its own.
type Session struct {
	*Guest
	nets networks
}

// Start boots the machine. It returns when the kernel's process runs; [Guest.Ready]
// waits for the rest. Ending ctx kills the machine.
func Start(ctx context.Context, cfg Config) (*Session, error) {
	s := &Session{nets: networks{}}
	var err error
	s.Guest, err = startGuest(ctx, cfg, func() (networks, error) { return s.nets, s.open(cfg) })
	if err != nil {
		s.nets.close()
		return nil, err
	}
	return s, nil
}

// open makes the machine's networks, with nobody else on them.
func (s *Session) open(cfg Config) error {
	plan := newPlan(cfg.Lab, cfg.Machine)
	plan.base = cfg.Base
	for i := range cfg.Machine.Cards {
		spec := cfg.Lab.Networks[cfg.Machine.Cards[i].Network]
		n := newNetwork(spec, networkOptions{})
		s.nets[spec.Name] = n
		noUplink(spec, cfg.Events)
		if err := n.openGateways(plan, cfg.Events); err != nil {
			return err
		}
	}
	return nil
}

// Close kills the machine, if it still runs, and frees everything. It may be
// called more than once.
func (s *Session) Close() {
	s.Guest.Close()
	s.nets.close()
}
