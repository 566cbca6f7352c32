package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// result is what one call of wolffia gave.
type result struct {
	status      int
	stdout, err string
}

// wolffia runs a verb in dir, with nothing of the person's environment.
func wolffia(t *testing.T, dir string, args ...string) result {
	t.Helper()
	home := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(home, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	env := Env{Args: args, Stdin: null, Stdout: open("out"), Stderr: open("err"), Dir: dir,
		Getenv: func(name string) string { return map[string]string{"HOME": home}[name] }}
	r := result{status: Main(context.Background(), env)}
	for f, to := range map[string]*string{"out": &r.stdout, "err": &r.err} {
		data, err := os.ReadFile(filepath.Join(home, f))
		if err != nil {
			t.Fatal(err)
		}
		*to = string(data)
	}
	return r
}

// TestBadUse: what cobra and pflag said by themselves was of another style, or
// help with status 0.
func TestBadUse(t *testing.T) {
	for args, want := range map[string]string{
		"help nonsense":            `unknown verb "nonsense"; see wolffia --help`,
		"help cache prnue":         `unknown verb "prnue" of wolffia cache; did you mean "prune"?`,
		"hlep":                     `unknown verb "hlep"; did you mean "help"?`,
		"completion":               `wolffia completion wants one shell: bash, zsh, fish or powershell`,
		"completion bahs":          `unknown shell "bahs"; did you mean "bash"?`,
		"completion bash x":        `wolffia completion wants one shell: bash, zsh, fish or powershell`,
		"explain biuld":            `unknown verb "biuld" of wolffia explain; did you mean "build"?`,
		"cache":                    `wolffia cache wants ls or prune`,
		"run --memory":             `flag --memory of wolffia run needs a value; see wolffia run --help`,
		"run --no-host=perhaps":    `flag --no-host of wolffia run: "perhaps" is neither true nor false`,
		"run --boot-timeout soon":  `flag --boot-timeout of wolffia run: "soon" is no duration; write one such as 90s or 5m`,
		"run --boot-timeout -5s":   `--boot-timeout -5s leaves a machine no time; write one such as 90s or 5m`,
		"run --release ../etc":     `release "../etc" is no Debian code name; write one such as trixie`,
		"run -t -T":                `--tty and --no-tty exclude each other`,
		"cache prune --older -1h":  `--older -1h0m0s lies in the future; write a duration such as 720h`,
		"build -o my.cpio.xz":      `my.cpio.xz does not say which format it is to have; give --format cpio or tar or ext2 or ext3 or ext4 or disk or qcow2 or oci`,
		"frob\x1b]0;title\x07nate": "unknown verb \"frob\\x1b]0;title\\anate\"; see wolffia --help",
	} {
		r := wolffia(t, t.TempDir(), strings.Fields(args)...)
		if r.status != ExitUsage || r.stdout != "" || r.err != "wolffia: "+want+"\n" {
			t.Errorf("%s: status %d, %q, %q", args, r.status, r.stdout, r.err)
		}
	}
}

// TestErrorsAsJSON: whoever asks for JSON gets nothing else.
func TestErrorsAsJSON(t *testing.T) {
	r := wolffia(t, t.TempDir(), "run", "--json", "nobody")
	var f failure
	if err := json.Unmarshal([]byte(r.err), &f); err != nil || f.Kind != "error" || f.Status != ExitUsage || r.status != ExitUsage ||
		!strings.HasPrefix(f.Message, `unknown image "nobody"`) {
		t.Errorf("%v: %s", err, r.err)
	}
}

// TestFormatOfName: a folder-like ".tar" within a name used to win over its end.
func TestFormatOfName(t *testing.T) {
	for name, want := range map[string]string{
		"root.cpio": "cpio none", "a/b.TAR.GZ": "tar gzip", "x.tgz": "tar gzip", "my.tarball.cpio.zst": "cpio zstd", "a.tar.old.cpio": "cpio none",
	} {
		f, err := (&buildVerb{}).formatOf(name)
		if got := f.Name + " " + f.Compression; err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
}

func TestLockFile(t *testing.T) {
	for path, want := range map[string]string{
		"/a/wolffia.yaml": "/a/wolffia.lock", "/a.b/lab": "/a.b/lab.lock", "/a/x.lock": "/a/x.lock.lock",
	} {
		if got := lockFile(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestWriteWhole follows links and leaves nothing but the file.
func TestWriteWhole(t *testing.T) {
	dir := t.TempDir()
	in, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	in.WriteString("image")
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.WriteFile(real, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	in.Seek(0, 0)
	if _, size, err := writeWhole(link, in); err != nil || size != 5 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if data, _ := os.ReadFile(real); string(data) != "image" {
		t.Errorf("behind the link is %q", data)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("the folder holds %v", names)
	}
}

// everyCommand calls f for each command below c.
func everyCommand(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		everyCommand(sub, f)
	}
}

// TestHelpHasExamples holds every verb to the house style.
func TestHelpHasExamples(t *testing.T) {
	root := newRoot(Env{}, nil)
	root.InitDefaultHelpCmd()
	everyCommand(root, func(c *cobra.Command) {
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s has no example or no description", c.CommandPath())
		}
	})
}

// TestFlagsComplete: every flag with a value completes, if only to nothing;
// those that name any file are left to the shell.
func TestFlagsComplete(t *testing.T) {
	anyFile := []string{"keyring", "output", "kernel"}
	everyCommand(newRoot(Env{}, nil), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			_, has := c.GetFlagCompletionFunc(f.Name)
			if f.Value.Type() != "bool" && has == slices.Contains(anyFile, f.Name) {
				t.Errorf("%s --%s: completes: %v", c.CommandPath(), f.Name, has)
			}
		})
	})
}

func TestCompletions(t *testing.T) {
	dir := t.TempDir()
	text := "images: {red: , blue: }\nnetworks: {wide: }\nmachines: {carol: {image: red}}\n"
	if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"run -f x.yaml":                "blue carol red :4",
		"run -f x.yaml red":            ":4",
		"run -f x.yaml --":             ":0",
		"run -f x.yaml -- tar":         ":0",
		"build -f x.yaml":              "blue red :4",
		"run -f x.yaml --network":      "wide none :4",
		"run -f broken.yaml --network": ":4",
		"explain run --backend":        "auto uml qemu view :36",
		"build --format":               "cpio tar ext2 ext3 ext4 disk qcow2 oci :36",
		"run --arch":                   "amd64 arm64 armhf i386 riscv64 :36",
		"help cache":                   "ls prune :4",
		"run --file":                   "yaml yml :8",
	} {
		r := wolffia(t, dir, append(append([]string{"__complete"}, strings.Fields(args)...), "")...)
		if got := strings.Join(strings.Fields(r.stdout), " "); r.status != 0 || got != want {
			t.Errorf("%s: %q, want %q; %s", args, got, want, r.err)
		}
	}
}
