package rootfs

import (
	"slices"
	"testing"

	"wolffia/internal/tree"
)

func TestScriptUsers(t *testing.T) {
	script := `#!/bin/sh
# adduser --system commented
if ! getent group tcpdump >/dev/null 2>&1; then
    addgroup --system --quiet tcpdump
fi
    adduser --system --quiet --ingroup tcpdump		\
	    --no-create-home --home /nonexistent	\
	    tcpdump
/usr/sbin/adduser --system --home=/var/lib/x --shell "/bin/sh" --gecos "some words" --group daemonx || true
adduser --system $NAME
adduser --quiet person
adduser --system _apt;
`
	want := []SystemUser{
		{Group: "tcpdump"}, {Name: "tcpdump", Group: "tcpdump", Home: "/nonexistent"},
		{Name: "daemonx", Group: "daemonx", Home: "/var/lib/x", Shell: "/bin/sh"}, {Name: "_apt"},
	}
	got := ScriptUsers(script)
	// The words of the quoted comment are not names.
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSysusers(t *testing.T) {
	r := tree.New()
	must(t, r.MkdirAll("/usr/lib/sysusers.d", 0o755))
	must(t, r.Put("/usr/lib/sysusers.d/x.conf", tree.File(0o644, tree.Bytes(
		"# u no 1\nu! systemd-x - \"A thing\" /run/x -\ng render -\nm x y\nu bad:name - - -\nr - 500-900\n"))))
	want := []SystemUser{{Name: "systemd-x", Group: "systemd-x", Comment: "A thing", Home: "/run/x"}, {Group: "render"}}
	if got := sysusers(r); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
