package rootfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm/shacrypt"

	"wolffia/internal/lazy"
	"wolffia/internal/tree"
)

// User is an account. One whose name is there already ("root", or one of
// Debian's) changes that.
type User struct {
	Name     string
	Password string   // in the clear; it is kept as SHA-512 crypt, and who has the image can try to guess it
	Hash     string   // as in /etc/shadow (crypt(5)), instead of Password; both empty: no password login
	UID      uint32   // 0 for anybody but root means the next free one from 1000
	Group    string   // primary group; empty means one of the user's own name
	Groups   []string // further groups
	Shell    string   // empty means /bin/sh
	Home     string   // empty means /home/NAME
	Comment  string   // the GECOS field
	Keys     []string // lines of ~/.ssh/authorized_keys
}

// Group is a group. One whose name is there already gets the further members.
type Group struct {
	Name    string
	GID     uint32   // 0 means the next free one from 1000
	Members []string // names of users
}

// Groups of Debian that device nodes belong to.
const (
	gidTTY     = 5
	gidDialout = 20
)

// nobody's number, of user and group, is the last of 16 bits.
const nobody = 65534

type account struct {
	name, hash, comment, home, shell string
	uid, gid                         uint32
	aging                            string // what follows the hash in /etc/shadow; empty: never
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// debianUsers are the accounts of Debian's base-passwd that programs ask for.
var debianUsers = []account{
	{"root", "*", "root", "/root", "/bin/sh", 0, 0, ""},
	{"daemon", "*", "daemon", "/usr/sbin", "/usr/sbin/nologin", 1, 1, ""},
	{"bin", "*", "bin", "/bin", "/usr/sbin/nologin", 2, 2, ""},
	{"sys", "*", "sys", "/dev", "/usr/sbin/nologin", 3, 3, ""},
	{"sync", "*", "sync", "/bin", "/bin/sync", 4, nobody, ""},
	{"mail", "*", "mail", "/var/mail", "/usr/sbin/nologin", 8, 8, ""},
	{"www-data", "*", "www-data", "/var/www", "/usr/sbin/nologin", 33, 33, ""},
	{"nobody", "*", "nobody", "/nonexistent", "/usr/sbin/nologin", nobody, nobody, ""},
}

var debianGroups = []group{
	{"root", 0, nil}, {"daemon", 1, nil}, {"bin", 2, nil}, {"sys", 3, nil}, {"adm", 4, nil},
	{"tty", gidTTY, nil}, {"disk", 6, nil}, {"lp", 7, nil}, {"mail", 8, nil}, {"kmem", 15, nil},
	{"dialout", gidDialout, nil}, {"cdrom", 24, nil}, {"floppy", 25, nil}, {"sudo", 27, nil},
	{"audio", 29, nil}, {"www-data", 33, nil}, {"shadow", 42, nil}, {"utmp", 43, nil},
	{"video", 44, nil}, {"plugdev", 46, nil}, {"staff", 50, nil}, {"users", 100, nil},
	{"nogroup", nobody, nil},
}

// nameRule is what Debian's adduser takes.
var nameRule = lazy.Regexp(`^[a-z_][a-z0-9_.-]{0,31}$`)

// accounts writes passwd, group, shadow and gshadow, and makes home folders.
func (b *builder) accounts() error {
	b.users, b.group = slices.Clone(debianUsers), make([]group, len(debianGroups))
	for i, g := range debianGroups {
		b.group[i] = group{g.name, g.gid, slices.Clone(g.members)}
	}
	if b.Tools != nil {
		if err := b.keptAccounts(); err != nil {
			return err
		}
	}
	b.addSystemUsers()
	for _, g := range b.Groups {
		if err := b.addGroup(g); err != nil {
			return &Error{Part: "group", Name: g.Name, Err: err}
		}
	}
	for _, u := range b.Users {
		if err := b.addUser(u); err != nil {
			return &Error{Part: "user", Name: u.Name, Err: err}
		}
		b.rep.Users = append(b.rep.Users, u.Name)
	}
	for _, g := range b.Groups { // once every user is known
		for _, m := range g.Members {
			if b.user(m) == nil {
				return &Error{Part: "group", Name: g.Name, Err: fmt.Errorf("there is no user %s", m)}
			}
		}
	}
	return b.writeAccounts()
}

func (b *builder) writeAccounts() error {
	var passwd, shadow, groups, gshadow strings.Builder
	for _, u := range b.users {
		fmt.Fprintf(&passwd, "%s:x:%d:%d:%s:%s:%s\n", u.name, u.uid, u.gid, u.comment, u.home, u.shell)
		aging := u.aging
		if aging == "" {
			// 1: the day of the last change; 0 would ask for a new password at once.
			aging = "1:0:99999:7:::"
		}
		fmt.Fprintf(&shadow, "%s:%s:%s\n", u.name, u.hash, aging)
	}
	for _, g := range b.group {
		fmt.Fprintf(&groups, "%s:x:%d:%s\n", g.name, g.gid, strings.Join(g.members, ","))
		fmt.Fprintf(&gshadow, "%s:*::%s\n", g.name, strings.Join(g.members, ","))
	}
	for _, f := range []struct {
		name, text string
		perm, gid  uint32
	}{
		{"/etc/passwd", passwd.String(), 0o644, 0},
		{"/etc/group", groups.String(), 0o644, 0},
		{"/etc/shadow", shadow.String(), 0o640, 42},
		{"/etc/gshadow", gshadow.String(), 0o640, 42},
	} {
		n := tree.File(f.perm, tree.Bytes(f.text))
		n.GID = f.gid
		if err := b.put(f.name, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) user(name string) *account {
	if i := slices.IndexFunc(b.users, func(u account) bool { return u.name == name }); i >= 0 {
		return &b.users[i]
	}
	return nil
}

func (b *builder) groupNamed(name string) *group {
	if i := slices.IndexFunc(b.group, func(g group) bool { return g.name == name }); i >= 0 {
		return &b.group[i]
	}
	return nil
}

func (b *builder) addGroup(g Group) error {
	if !nameRule().MatchString(g.Name) {
		return errors.New("is not a name: a to z, 0 to 9, _, . and -, at most 32, not starting with a digit")
	}
	have := b.groupNamed(g.Name)
	if have == nil {
		gid := g.GID
		if gid == 0 {
			gid = free(1000, func(id uint32) bool {
				return slices.ContainsFunc(b.group, func(g group) bool { return g.gid == id })
			})
		} else if i := slices.IndexFunc(b.group, func(o group) bool { return o.gid == gid }); i >= 0 {
			return fmt.Errorf("the number %d is that of the group %s", gid, b.group[i].name)
		}
		b.group = append(b.group, group{name: g.Name, gid: gid})
		have = &b.group[len(b.group)-1]
	} else if g.GID != 0 && g.GID != have.gid {
		return fmt.Errorf("has the number %d in %s", have.gid, b.origin())
	}
	for _, m := range g.Members {
		have.add(m)
	}
	return nil
}

// origin is where accounts come from that the recipe does not name.
func (b *builder) origin() string {
	if b.Tools != nil {
		return "the base"
	}
	return "Debian"
}

func (g *group) add(member string) {
	if !slices.Contains(g.members, member) {
		g.members = append(g.members, member)
	}
}

func free(first uint32, taken func(uint32) bool) uint32 {
	for id := first; ; id++ {
		if !taken(id) && id != nobody {
			return id
		}
	}
}

func (b *builder) addUser(u User) error {
	if err := checkUser(u); err != nil {
		return err
	}
	a := b.user(u.Name)
	if a == nil {
		made, err := b.newUser(u)
		if err != nil {
			return err
		}
		b.users = append(b.users, made)
		a = &b.users[len(b.users)-1]
	} else if u.UID != 0 && u.UID != a.uid {
		return fmt.Errorf("has the number %d in %s", a.uid, b.origin())
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&a.comment, u.Comment}, {&a.home, u.Home}, {&a.shell, u.Shell}, {&a.hash, u.Hash}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if u.Password != "" {
		h, err := HashPassword(u.Name, u.Password)
		if err != nil {
			return err
		}
		a.hash = h
	}
	for _, name := range u.Groups {
		g := b.groupNamed(name)
		if g == nil {
			return fmt.Errorf("there is no group %s", name)
		}
		g.add(u.Name)
	}
	return b.home(*a, u.Keys)
}

// newUser finds the numbers of a user who isn't there yet.
func (b *builder) newUser(u User) (account, error) {
	uid := u.UID
	if uid == 0 {
		uid = free(1000, func(id uint32) bool {
			return slices.ContainsFunc(b.users, func(a account) bool { return a.uid == id })
		})
	} else if i := slices.IndexFunc(b.users, func(a account) bool { return a.uid == uid }); i >= 0 {
		return account{}, fmt.Errorf("the number %d is that of the user %s", uid, b.users[i].name)
	}
	own := u.Group
	if own == "" {
		own = u.Name
	}
	g := b.groupNamed(own)
	if g == nil {
		if u.Group != "" {
			return account{}, fmt.Errorf("there is no group %s", u.Group)
		}
		gid := uid
		if slices.ContainsFunc(b.group, func(g group) bool { return g.gid == gid }) {
			gid = 0
		}
		if err := b.addGroup(Group{Name: own, GID: gid}); err != nil {
			return account{}, err
		}
		g = b.groupNamed(own)
	}
	return account{name: u.Name, hash: "*", home: "/home/" + u.Name, shell: "/bin/sh", uid: uid, gid: g.gid}, nil
}

func checkUser(u User) error {
	if !nameRule().MatchString(u.Name) {
		return errors.New("is not a name: a to z, 0 to 9, _, . and -, at most 32, not starting with a digit")
	}
	if u.Password != "" && u.Hash != "" {
		return errors.New("has both a password and a hash")
	}
	if strings.ContainsAny(u.Home+u.Shell+u.Comment+u.Hash, ":\n\x00") {
		return errors.New("home, shell, comment and hash can't hold a colon or a line break")
	}
	for _, p := range []string{u.Home, u.Shell} {
		if p != "" && !strings.HasPrefix(p, "/") {
			return fmt.Errorf("%q does not start with a slash", p)
		}
	}
	for _, k := range u.Keys {
		if strings.ContainsAny(k, "\n\x00") {
			return errors.New("a key is one line")
		}
	}
	return nil
}

// home makes the home folder, owned by a, and its authorized keys.
func (b *builder) home(a account, keys []string) error {
	if !b.has(a.home) {
		if err := b.mkdir(a.home); err != nil {
			return err
		}
		d := tree.Dir(0o750)
		d.UID, d.GID = a.uid, a.gid
		if err := b.put(a.home, d); err != nil {
			return err
		}
	}
	if len(keys) == 0 {
		return nil
	}
	dir := tree.Dir(0o700)
	file := tree.File(0o600, tree.Bytes(strings.Join(keys, "\n")+"\n"))
	dir.UID, dir.GID, file.UID, file.GID = a.uid, a.gid, a.uid, a.gid
	if err := b.put(a.home+"/.ssh", dir); err != nil {
		return err
	}
	return b.put(a.home+"/.ssh/authorized_keys", file)
}

// owner finds the number of a user, given by name or by number.
func (b *builder) owner(s string) (uint32, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return uint32(n), nil
	}
	if u := b.user(s); u != nil {
		return u.uid, nil
	}
	return 0, fmt.Errorf("there is no user %s", s)
}

func (b *builder) ownerGroup(s string) (uint32, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return uint32(n), nil
	}
	if g := b.groupNamed(s); g != nil {
		return g.gid, nil
	}
	return 0, fmt.Errorf("there is no group %s", s)
}

// HashPassword gives the SHA-512 crypt(5) hash of a password. The salt comes
// from the name and the password, so that the same recipe gives the same image;
// the price is that equal passwords of equally named users show.
func HashPassword(user, password string) (string, error) {
	h, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(shacrypt.IterationsDefaultOmitted))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte("wolffia password salt\x00" + user + "\x00" + password))
	salt := make([]byte, shacrypt.SaltLengthMax)
	for i := range salt {
		salt[i] = shacrypt.SaltCharSet[sum[i]%64]
	}
	d, err := h.HashWithSalt(password, salt)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return d.Encode(), nil
}
