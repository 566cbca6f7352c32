package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
)

// Checks says, for wolffia doctor, what this process may do to the host's network,
// and whether it could join a bridge of the host's without that.
func Checks() []host.Check {
	const bridgeConf = "/etc/qemu/bridge.conf"
	denied := privileged()
	tap := host.Check{Name: "host's own network", OK: denied == nil, For: "uplink: taps, bridges and VLANs of the host"}
	var u *host.UnsupportedError
	if errors.As(denied, &u) {
		tap.Why, tap.Fix = u.Why, u.Fix
	}
	bridge := host.Check{Name: "bridges of the host", OK: true, For: "uplink: {bridge: br0}, a bridge that is there"}
	if denied != nil {
		bridge.Why, bridge.Fix = helperLacks(findHelper(""), bridgeConf)
		bridge.OK = bridge.Why == ""
	}
	return []host.Check{tap, bridge}
}

// helperLacks says what keeps qemu-bridge-helper from doing its work for a person
// without a privilege, and what would mend it; nothing if it should do.
func helperLacks(helper, conf string) (why, fix string) {
	if helper == "" {
		return "there is no qemu-bridge-helper", "sudo apt-get install qemu-system-common, then: " + setuid(helperPaths()[0]) + "; " + allow("br0")
	}
	st, err := os.Stat(helper)
	_, cerr := unix.Getxattr(helper, "security.capability", nil)
	if err == nil && st.Mode()&os.ModeSetuid == 0 && cerr != nil {
		return helper + " is neither setuid nor has it CAP_NET_ADMIN", setuid(helper) + "; " + allow("br0")
	}
	text, err := os.ReadFile(conf)
	if errors.Is(err, os.ErrNotExist) {
		return "there is no " + conf, allow("br0")
	}
	if err != nil { // it may be the helper's alone to read
		return "", ""
	}
	for line := range bytes.Lines(text) {
		if word := strings.Fields(string(line)); len(word) > 1 && (word[0] == "allow" || word[0] == "include") {
			return "", ""
		}
	}
	return fmt.Sprintf("%s allows no bridge", conf), allow("br0")
}
