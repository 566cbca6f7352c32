package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"wolffia/internal/build"
	"wolffia/internal/debian"
	"wolffia/internal/host"
	"wolffia/internal/hostnet"
	"wolffia/internal/store"
	"wolffia/internal/term"
)

func newDoctor(env Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can do, and how to fix the rest",
		Long: `Tries what wolffia may need of the host. What is needed and missing makes the
exit status 1; what only makes things better is listed with what it is for.
Each probe tries the thing itself: a /dev/kvm that opens may still not work.`,
		Example: "  wolffia doctor\n  wolffia doctor --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			checks := slices.Concat(ownChecks(env), host.New().All(), hostnet.Checks())
			var err error
			if asJSON {
				err = writeJSON(env.Stdout, checks)
			} else {
				err = showChecks(env, checks)
			}
			if err != nil {
				return err
			}
			for _, c := range checks {
				if c.Needed && !c.OK {
					return statusError(ExitFailure)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showChecks(env Env, checks []host.Check) error {
	var out page
	for _, c := range checks {
		mark := "ok  "
		switch {
		case !c.OK && c.Needed:
			mark = "FAIL"
		case !c.OK:
			mark = "no  "
		}
		out.printf("%s  %-26s %s\n", mark, c.Name, c.For)
		if c.Why != "" {
			out.printf("      %s\n", c.Why)
		}
		if c.Fix != "" {
			out.printf("      fix: %s\n", c.Fix)
		}
	}
	return out.show(env)
}

// leastRoom is what the cache needs for the default image and its kernel.
const leastRoom = 600 << 20

// ownChecks are about what wolffia itself is set up with.
func ownChecks(env Env) []host.Check {
	check := func(name, use string, needed bool, err error, fix string) host.Check {
		c := host.Check{Name: name, OK: err == nil, For: use, Needed: needed}
		if err != nil {
			c.Why, c.Fix = err.Error(), fix
		}
		return c
	}
	var arch error
	if build.HostArch() != "amd64" {
		arch = fmt.Errorf("this host is %s", build.HostArch())
	}
	mirror, merr := debian.FindMirror(debian.MirrorOptions{Env: env.Getenv("WOLFFIA_MIRROR"), AptDir: "/etc/apt"})
	found := check("Debian mirror", "packages: "+mirror.URI, true, nil, "")
	var none *debian.NoMirrorError
	if errors.As(merr, &none) {
		found = check("Debian mirror", "packages", true, merr, none.Fix())
	} else if merr != nil {
		found = check("Debian mirror", "packages", true, merr, "give one with --mirror URL")
	}
	return []host.Check{
		check("amd64 host", "User-Mode Linux machines", true, arch, "images for any architecture can be built here all the same"),
		found, cacheCheck(env),
	}
}

func cacheCheck(env Env) host.Check {
	c := host.Check{Name: "cache", Needed: true, For: "what was fetched and made"}
	folders, err := store.FoldersOf(env.Getenv)
	if err == nil {
		c.For += ": " + folders.Cache
		_, err = store.Open(store.Options{Dir: folders.Cache})
	}
	if err == nil {
		err = os.MkdirAll(folders.Cache, 0o777)
	}
	if err == nil {
		err = unix.Access(folders.Cache, unix.W_OK)
	}
	var fs unix.Statfs_t
	if err == nil {
		err = unix.Statfs(folders.Cache, &fs)
	}
	if err != nil {
		c.Why, c.Fix = err.Error(), "set WOLFFIA_CACHE to a folder that can be written"
		return c
	}
	free := int64(fs.Bavail) * fs.Bsize
	if c.OK = free >= leastRoom; !c.OK {
		c.Why = fmt.Sprintf("only %s are free there; %s are good to have", term.Bytes(free), term.Bytes(leastRoom))
		c.Fix = "wolffia cache prune, or set WOLFFIA_CACHE to a folder with more room"
	}
	return c
}
