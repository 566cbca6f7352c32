package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"wolffia/internal/tree"
)

// maxAccounts bounds each of the files below, in bytes.
const maxAccounts = 16 << 20

// keptAccounts reads the accounts that a base has. Where it has none, Debian's
// are taken; root is always there, with a shell that is, too.
func (b *builder) keptAccounts() error {
	if !b.has("/etc/passwd") {
		return nil
	}
	users, err := b.passwd()
	if err != nil {
		return err
	}
	groups, err := b.groupFile()
	if err != nil {
		return err
	}
	b.users, b.group = users, groups
	if b.user("root") == nil {
		b.users = append([]account{debianUsers[0]}, b.users...)
	}
	if b.groupNamed("root") == nil && !slices.ContainsFunc(b.group, func(g group) bool { return g.gid == 0 }) {
		b.group = append([]group{{name: "root"}}, b.group...)
	}
	root := b.user("root")
	if !b.has(root.shell) {
		root.shell = "/bin/sh"
	}
	return b.keptShells(root.shell)
}

// keptShells makes sure that /etc/shells names a shell: ssh servers let nobody in
// who has another.
func (b *builder) keptShells(shell string) error {
	const name = "/etc/shells"
	text, err := b.t.ReadFile(name, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == shell {
			return nil
		}
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return b.put(name, tree.File(0o644, tree.Bytes(string(text)+shell+"\n")))
}

// records reads a file of lines with fields between colons; one that is not
// there has none.
func (b *builder) records(name string, fields int) ([][]string, error) {
	text, err := b.t.ReadFile(name, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out [][]string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		// NIS lines (+, -) and comments are nobody's account.
		if line == "" || strings.ContainsAny(line[:1], "+-#") {
			continue
		}
		f := strings.Split(line, ":")
		if len(f) < fields {
			return nil, fmt.Errorf("%s of the base: line %.80q has fewer than %d fields", name, line, fields)
		}
		out = append(out, f)
	}
	return out, nil
}

func (b *builder) passwd() ([]account, error) {
	lines, err := b.records("/etc/passwd", 7)
	if err != nil {
		return nil, err
	}
	secret, err := b.records("/etc/shadow", 2)
	if err != nil {
		return nil, err
	}
	hashes := map[string][]string{}
	for _, f := range secret {
		hashes[f[0]] = f[1:]
	}
	var out []account
	for _, f := range lines {
		uid, uerr := strconv.ParseUint(f[2], 10, 32)
		gid, gerr := strconv.ParseUint(f[3], 10, 32)
		if uerr != nil || gerr != nil {
			return nil, fmt.Errorf("/etc/passwd of the base: user %.40q has no numbers", f[0])
		}
		a := account{name: f[0], hash: f[1], comment: f[4], home: f[5], shell: f[6], uid: uint32(uid), gid: uint32(gid)}
		if a.hash == "x" {
			a.hash = "*"
		}
		if h := hashes[a.name]; h != nil {
			a.hash, a.aging = h[0], strings.Join(h[1:], ":")
		}
		out = append(out, a)
	}
	return out, nil
}

func (b *builder) groupFile() ([]group, error) {
	lines, err := b.records("/etc/group", 4)
	if err != nil {
		return nil, err
	}
	var out []group
	for _, f := range lines {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("/etc/group of the base: group %.40q has no number", f[0])
		}
		g := group{name: f[0], gid: uint32(gid)}
		for _, m := range strings.Split(f[3], ",") {
			if m != "" {
				g.members = append(g.members, m)
			}
		}
		out = append(out, g)
	}
	return out, nil
}
