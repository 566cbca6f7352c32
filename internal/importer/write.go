package importer

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"wolffia/internal/lab"
)

// The scripts that lie in the images.
var (
	//go:embed files/lab
	bootHead string
	//go:embed files/rename
	bootRename string
	//go:embed files/rest
	bootRest string
	//go:embed files/systemctl
	systemctl string
	//go:embed files/service
	service string
)

// hostlab is where the lab's own files lie in an image, as netkit had it.
const hostlab = "/hostlab"

// file is a wolffia.yaml that is being written.
type file struct{ strings.Builder }

func (f *file) linef(format string, args ...any) { fmt.Fprintf(f, format+"\n", args...) }

// write gives the text of the lab's wolffia.yaml.
func (t *topology) write() []byte {
	f := &file{}
	f.linef("# Made by wolffia import, of a lab of %s's: %s.", t.kind, comment(t.file))
	for _, a := range t.about {
		f.linef("# %s", comment(a))
	}
	f.linef("# Start it with wolffia up, or wolffia up -f FILE where this is not wolffia.yaml.")
	f.linef("# All keys: docs/file.md or wolffia schema")
	f.linef("name: %s\n", text(t.name))
	t.writeNetworks(f)
	f.linef("machines:")
	for _, m := range t.machines {
		t.writeMachine(f, m)
	}
	f.linef("\nimages:")
	for _, i := range t.images {
		t.writeImage(f, i)
	}
	return []byte(f.String())
}

func (t *topology) writeImage(f *file, i *image) {
	f.linef("  %s:", i.name)
	if i.from != "" {
		f.linef("    # What the container image starts by itself (its entrypoint) is not started.")
		f.linef("    from: %s", text(i.from))
	} else {
		f.linef("    # The usual tools, and what the startup files call. Add what else is needed.")
		f.linef("    packages: [%s]", strings.Join(i.packages, ", "))
		f.linef("    deps: elf")
	}
	if i.has("frr") {
		f.linef("    groups: [{name: frr}, {name: frrvty}]")
		f.linef("    users:")
		f.linef("      - {name: frr, group: frr, groups: [frrvty]}")
		if i.shell != "" {
			f.linef("      - {name: root, shell: %s}", text(i.shell))
		}
	} else if i.shell != "" {
		f.linef("    users: [{name: root, shell: %s}]", text(i.shell))
	}
	f.linef("    services: [lab]")
	f.linef("    files:")
	f.linef("      # The lab's own files. Each machine takes those that bear its name.")
	if slices.ContainsFunc(i.machines, func(m *machine) bool { return m.shared }) {
		f.linef("      - {from: %s, path: %s/shared.startup}", text(t.host("shared.startup")), hostlab)
	}
	for _, m := range i.machines {
		t.writeFiles(f, m)
	}
	i.writeScripts(f)
}

func (t *topology) writeFiles(f *file, m *machine) {
	for _, l := range m.layers {
		f.linef("      - {from: %s, to: %s}", text(l.from), text(path.Join(hostlab, m.name, l.to)))
	}
	if m.startup {
		f.linef("      - {from: %s, path: %s/%s.startup}", text(t.host(m.title+".startup")), hostlab, m.name)
	}
	if len(m.env) > 0 {
		var b strings.Builder
		for _, e := range m.env {
			b.WriteString("export " + e[0] + "=" + quote(e[1]) + "\n")
		}
		f.content(fmt.Sprintf("%s/%s.env", hostlab, m.name), "", b.String())
	}
}

// writeScripts writes the service that gives each machine its own, and what
// stands in for commands that packages bring only when they are installed.
func (i *image) writeScripts(f *file) {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n" + bootHead)
	if slices.ContainsFunc(i.machines, func(m *machine) bool { return m.renames }) {
		b.WriteString(bootRename)
	}
	i.perMachine(&b, "before", "before the startup files", func(m *machine) []string { return m.before })
	i.perMachine(&b, "after", "after them", func(m *machine) []string { return m.commands })
	b.WriteString(bootRest)
	f.linef("      # It runs at boot, before the machine is ready.")
	f.content("/etc/init.d/lab", "0755", b.String())
	if i.from == "" && i.uses("systemctl", "service") {
		f.content("/usr/local/sbin/systemctl", "0755", systemctl)
		f.content("/usr/local/sbin/service", "0755", service)
	}
	if i.has("frr") {
		f.linef("      - {path: /etc/init.d/frr, link: /usr/lib/frr/frrinit.sh}")
		for _, kind := range []string{"auth", "account", "password", "session"} { // vtysh asks PAM
			f.linef("      - {path: /etc/pam.d/common-%s, content: \"%[1]s sufficient pam_rootok.so\\n%[1]s required pam_unix.so\\n\"}", kind)
		}
	}
	if i.has("iptables") {
		for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
			f.linef("      - {path: /usr/sbin/%s, link: xtables-nft-multi}", name)
		}
	}
}

// perMachine writes a shell function with the lines of each machine.
func (i *image) perMachine(b *strings.Builder, name, when string, lines func(*machine) []string) {
	if !slices.ContainsFunc(i.machines, func(m *machine) bool { return len(lines(m)) > 0 }) {
		fmt.Fprintf(b, "\n%s() { :; } # no machine does anything %s\n", name, when)
		return
	}
	fmt.Fprintf(b, "\n# %s is what machines do %s.\n%[1]s() {\n\tcase $me in\n", name, when)
	for _, m := range i.machines {
		own := lines(m)
		if len(own) == 0 {
			continue
		}
		fmt.Fprintf(b, "\t%s)\n", m.name)
		for _, l := range own {
			fmt.Fprintf(b, "\t\t%s\n", l)
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString("\tesac\n}\n")
}

// content writes a file of an image with its text.
func (f *file) content(name, mode, content string) {
	f.linef("      - path: %s", text(name))
	if mode != "" {
		f.linef("        mode: %q", mode)
	}
	f.linef("        content: |")
	for line := range strings.Lines(content) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			line = "          " + line
		}
		f.linef("%s", line)
	}
}

func (t *topology) writeNetworks(f *file) {
	if len(t.segments) == 0 {
		return
	}
	f.linef("networks:")
	for _, s := range t.segments {
		var keys []string
		add := func(format string, args ...any) { keys = append(keys, fmt.Sprintf(format, args...)) }
		if s.subnet.IsValid() {
			add("subnet: %s", s.subnet)
		}
		if s.subnet6.IsValid() {
			add("subnet6: %q", s.subnet6)
		}
		if !s.gateway {
			add("gateway: none")
		}
		if s.mtu != 0 {
			add("mtu: %d", s.mtu)
		}
		if s.closed {
			add("host: false, restrict: true")
		}
		f.linef("  %s: {%s}%s", s.name, strings.Join(keys, ", "), s.about())
	}
	f.linef("")
}

// about is the comment behind a network.
func (s *segment) about() string {
	switch {
	case s.gateway:
		return " # leads to the host and beyond"
	case s.title != s.name:
		return " # " + comment(s.title)
	}
	return ""
}

func (t *topology) writeMachine(f *file, m *machine) {
	i := t.images[slices.IndexFunc(t.images, func(i *image) bool { return slices.Contains(i.machines, m) })]
	f.linef("  %s:", m.name)
	f.linef("    image: %s", i.name)
	if len(m.demands) > 0 {
		f.linef("    backend: qemu # User-Mode Linux can't do all that this needs: %s", strings.Join(m.demands, ", "))
	}
	f.linef("    memory: %s", m.memory)
	if i.from != "" {
		f.linef("    root: disk # an image of unknown size may be too large for memory")
	}
	if len(m.modules) > 0 {
		f.linef("    modules: [%s]", strings.Join(m.modules, ", "))
	}
	if len(m.cards) > 1 || len(m.modules) > 0 { // VLANs and tunnels are networks, too
		f.linef("    forwarding: true")
	}
	if len(m.after) > 0 {
		f.linef("    after: [%s]", texts(m.after))
	}
	if m.restart != "" {
		f.linef("    restart: %q", string(m.restart))
	}
	if len(m.cards) == 0 {
		f.linef("    networks: []")
	} else {
		f.linef("    networks:")
	}
	for _, c := range m.cards {
		keys := "network: " + c.segment.name
		if c.address != "" {
			keys += ", address: " + c.address
		}
		if c.mac != "" {
			keys += fmt.Sprintf(", mac: %q", c.mac)
		}
		f.linef("      - {%s} # %s", keys, c.iface)
	}
	if len(m.forwards) > 0 {
		f.linef("    forwards:")
		for _, w := range m.forwards {
			f.linef("      - %q", w.String())
		}
	}
}

func texts(list []string) string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = text(list[i])
	}
	return strings.Join(out, ", ")
}

// comment makes text harmless behind a #.
func comment(s string) string {
	return strings.Join(strings.Fields(clean(s)), " ")
}

// text writes a string as YAML reads it back: plain where that is sure to do.
func text(s string) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if s != "" && strings.ContainsRune(letters+"/.", rune(s[0])) && strings.Trim(s, letters+"0123456789/_.-") == "" && !isWord(s) {
		return s
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // of a string, never
	}
	return string(quoted)
}

// isWord reports whether YAML, or what people write it with, might take a word
// for something else than text.
func isWord(s string) bool {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n", ".inf", ".nan":
		return true
	}
	_, err := lab.ParseSize(s) // 1e5 and the like
	return err == nil || strings.Trim(s, ".0123456789eE-+") == ""
}
