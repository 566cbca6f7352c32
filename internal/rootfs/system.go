package rootfs

import (
	"path"
	"slices"
	"strings"

	"wolffia/internal/tree"
)

// SystemUser is an account of a package's own, which installing it would make:
// tcpdump, for one, becomes the user tcpdump. Its numbers are the next free
// ones from 100.
type SystemUser struct {
	Name    string // empty: only the group
	Group   string // the primary one, made where it is not there; empty means nogroup
	Home    string // empty means /nonexistent
	Shell   string // empty means /usr/sbin/nologin
	Comment string // the GECOS field
}

// Bounds of what is read of packages' wishes.
const (
	maxSysusers     = 64 << 10 // bytes of a file in sysusers.d
	maxSystemUsers  = 1000
	maxSystemNumber = 999
)

// ScriptUsers are the accounts that a maintainer script makes with adduser and
// addgroup (adduser(8)), as far as they are written out: what a shell would have
// to work out is passed over.
func ScriptUsers(script string) []SystemUser {
	var out []SystemUser
	script = strings.ReplaceAll(script, "\\\n", " ")
	for line := range strings.Lines(script) {
		words := unquote(strings.Fields(line))
		at := slices.IndexFunc(words, func(w string) bool {
			base := path.Base(w)
			return base == "adduser" || base == "addgroup"
		})
		if at < 0 || strings.HasPrefix(words[0], "#") || !slices.Contains(words, "--system") {
			continue
		}
		if u, ok := scriptUser(path.Base(words[at]), words[at+1:]); ok && len(out) < maxSystemUsers {
			out = append(out, u)
		}
	}
	return out
}

// unquote joins the words between quotes.
func unquote(words []string) []string {
	var out []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		if q := w[0]; q == '"' || q == '\'' {
			for !(len(w) > 1 && w[len(w)-1] == q) && i+1 < len(words) {
				i++
				w += " " + words[i]
			}
		}
		out = append(out, w)
	}
	return out
}

// scriptUser reads the arguments of adduser or addgroup.
func scriptUser(command string, args []string) (u SystemUser, ok bool) {
	valued := map[string]*string{"--home": &u.Home, "--ingroup": &u.Group, "--shell": &u.Shell}
	ignored := []string{"--gecos", "--comment", "--uid", "--gid", "--firstuid", "--lastuid", "--conf"}
	name, group := "", command == "addgroup"
	for i := 0; i < len(args); i++ {
		w := strings.Trim(args[i], `"'`)
		if end := strings.IndexAny(w, ";|&><"); end >= 0 {
			if end > 0 && !strings.HasPrefix(w, "-") && name == "" {
				name = w[:end]
			}
			break
		}
		option, value, joined := strings.Cut(w, "=")
		to := valued[option]
		switch {
		case to != nil && joined:
			*to = strings.Trim(value, `"'`)
		case to != nil && i+1 < len(args):
			i++
			*to = strings.Trim(args[i], `"'`)
		case slices.Contains(ignored, option) && !joined:
			i++
		case w == "--group":
			group = true
		case strings.HasPrefix(w, "-") || w == "":
		case name == "":
			name = w
		}
	}
	if command == "addgroup" {
		return SystemUser{Group: name}, nameRule().MatchString(name)
	}
	u.Name = name
	if u.Group == "" && group {
		u.Group = name
	}
	plain := func(s string) bool { return !strings.ContainsAny(s, "$`:\n\x00") }
	return u, nameRule().MatchString(name) && (u.Group == "" || nameRule().MatchString(u.Group)) && plain(u.Home) && plain(u.Shell)
}

// sysusers are the accounts that the files in /usr/lib/sysusers.d ask for
// (sysusers.d(5)): users and groups by name. Numbers, members and ranges are
// passed over.
func sysusers(t *tree.Tree) []SystemUser {
	const dir = "/usr/lib/sysusers.d"
	folder := t.Get(dir)
	if folder == nil || !folder.IsDir() {
		return nil
	}
	var out []SystemUser
	for _, name := range folder.Names() {
		if !strings.HasSuffix(name, ".conf") {
			continue
		}
		text, err := t.ReadFile(dir+"/"+name, maxSysusers)
		if err != nil {
			continue // a link that leads nowhere, or no text
		}
		for line := range strings.Lines(string(text)) {
			if u, ok := sysuser(line); ok && len(out) < maxSystemUsers {
				out = append(out, u)
			}
		}
	}
	return out
}

// sysuser reads a line such as: u tcpdump - "packet capture" /nonexistent
func sysuser(line string) (u SystemUser, ok bool) {
	// The comment may hold blanks.
	before, rest, quoted := strings.Cut(line, `"`)
	f := strings.Fields(before)
	if quoted {
		comment, after, _ := strings.Cut(rest, `"`)
		f = append(append(f, comment), strings.Fields(after)...)
	}
	for i := range f {
		if f[i] == "-" {
			f[i] = ""
		}
	}
	f = append(f, "", "", "", "", "", "")
	if !nameRule().MatchString(f[1]) || strings.ContainsAny(f[3]+f[4]+f[5], ":\n\x00%$") {
		return u, false
	}
	switch strings.TrimRight(f[0], "!-+") {
	case "u":
		return SystemUser{Name: f[1], Group: f[1], Comment: f[3], Home: f[4], Shell: f[5]}, true
	case "g":
		return SystemUser{Group: f[1]}, true
	}
	return u, false
}

// addSystemUsers makes the accounts that packages want and nobody has made.
func (b *builder) addSystemUsers() {
	for _, u := range slices.Concat(b.SystemUsers, sysusers(b.t)) {
		gid := uint32(nobody)
		if u.Group != "" {
			g := b.groupNamed(u.Group)
			if g == nil {
				id := free(100, func(id uint32) bool {
					return slices.ContainsFunc(b.group, func(g group) bool { return g.gid == id })
				})
				if id > maxSystemNumber {
					return
				}
				b.group = append(b.group, group{name: u.Group, gid: id})
				g = &b.group[len(b.group)-1]
			}
			gid = g.gid
		}
		if u.Name == "" || b.user(u.Name) != nil {
			continue
		}
		id := free(100, func(id uint32) bool {
			return slices.ContainsFunc(b.users, func(a account) bool { return a.uid == id })
		})
		if id > maxSystemNumber {
			return
		}
		a := account{name: u.Name, hash: "*", comment: u.Comment, home: u.Home, shell: u.Shell, uid: id, gid: gid}
		if a.home == "" {
			a.home = "/nonexistent"
		}
		if a.shell == "" {
			a.shell = "/usr/sbin/nologin"
		}
		b.users = append(b.users, a)
	}
}
