package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/vnet/wire"
)

// unprivileged says whether all of the plan can be had without a privilege.
func (p *Plan) unprivileged() bool {
	for i := range p.Taps {
		if t := &p.Taps[i]; !t.Given && (t.Bridge == "" || t.MTU != 0) {
			return false
		}
	}
	return len(p.Bridges) == 0 && len(p.Taps) > 0
}

// plugIn takes what is given, and joins bridges of the host through
// qemu-bridge-helper. There is nothing to undo: those taps go with their
// descriptors.
func plugIn(p *Plan, o Options, a *actor, denied error) (*Live, error) {
	l := &Live{actor: a}
	for i := range p.Taps {
		t := &p.Taps[i]
		var tap *wire.Tap
		var err error
		if t.Given {
			tap, err = openTap(t.Name)
		} else {
			tap, err = joinByHelper(t.Bridge, o.BridgeHelper, denied)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("plug in %s: %w", t.Name, err), l.Close())
		}
		a.taps[t.Name] = tap
	}
	return l, nil
}

// helperPaths are where distributions have qemu-bridge-helper.
func helperPaths() []string {
	return []string{"/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper", "/usr/libexec/qemu/qemu-bridge-helper"}
}

func findHelper(given string) string {
	paths := helperPaths()
	if given != "" {
		paths = []string{given}
	}
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	return ""
}

// joinByHelper has the setuid program of QEMU's make a tap in a bridge. The
// program passes the tap's descriptor over a unix socket.
func joinByHelper(bridge, given string, denied error) (*wire.Tap, error) {
	helper := findHelper(given)
	if helper == "" {
		return nil, &host.UnsupportedError{
			Feature: "joining bridge " + bridge,
			Why:     fmt.Sprintf("%v; and there is no qemu-bridge-helper", denied),
			Fix:     "sudo apt-get install qemu-system-common, then: " + allow(bridge) + "; " + setuid(helperPaths()[0]),
		}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for %s: %w", helper, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "bridge-helper"), os.NewFile(uintptr(fds[1]), "bridge-helper")
	defer ours.Close()
	var said bytes.Buffer
	cmd := exec.Command(helper, "--use-vnet", "--br="+bridge, "--fd=3")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, &said
	cmd.Env = []string{"LC_ALL=C"}
	err = cmd.Run()
	theirs.Close()
	if err != nil {
		return nil, helperError(helper, bridge, strings.TrimSpace(said.String()), err)
	}
	tap, err := receiveTap(fds[0])
	if err != nil {
		return nil, fmt.Errorf("take the tap of %s: %w", helper, err)
	}
	return wire.NewTap(tap, true)
}

// receiveTap takes the descriptor out of the message that has it (unix(7),
// SCM_RIGHTS). The helper has ended, so nothing is waited for.
func receiveTap(fd int) (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, errors.New("it passed no descriptor")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("it passed no descriptor")
	}
	return os.NewFile(uintptr(fds[0]), "/dev/net/tun"), nil
}

// helperError says what to do about what the helper said.
func helperError(helper, bridge, said string, err error) error {
	fix := ""
	switch {
	case said == "": // it could not even be started
		return fmt.Errorf("join bridge %s: %w", bridge, err)
	case strings.Contains(said, "bridge.conf"), strings.Contains(said, "acl"):
		fix = allow(bridge)
	case strings.Contains(said, "ermitted"), strings.Contains(said, "ermission"), strings.Contains(said, "/dev/net/tun"):
		fix = setuid(helper)
	default:
		return fmt.Errorf("join bridge %s: %s: %w: %s", bridge, helper, err, said)
	}
	return &host.UnsupportedError{Feature: "joining bridge " + bridge, Why: fmt.Sprintf("%s said: %s", helper, said), Fix: fix}
}

func allow(bridge string) string {
	return fmt.Sprintf(`sudo mkdir -p /etc/qemu && echo "allow %s" | sudo tee -a /etc/qemu/bridge.conf`, bridge)
}

func setuid(helper string) string { return "sudo chmod u+s " + helper }
