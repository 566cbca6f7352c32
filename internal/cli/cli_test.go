package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"wolffia/internal/build"
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
		"--verison":                `unknown flag --verison of wolffia; did you mean "--version"?`,
		"ps --wide":                `unknown flag --wide of wolffia ps; see wolffia ps --help`,
		"down --qiet":              `unknown flag --qiet of wolffia down; did you mean "--quiet"?`,
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

// TestFileIsNone: a FIFO that was called wolffia.yaml was waited for, and a
// device or a file without an end was read.
func TestFileIsNone(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name, fileName) }
	for name, make := range map[string]func(path string) error{
		"fifo":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"memory": func(path string) error { return os.Symlink("/proc/self/mem", path) },
		"socket": func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
		"huge": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("images: {}\n"), 0o600), os.Truncate(path, 1<<40))
		},
	} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700), make(in(name))); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct{ name, says string }{
		{"fifo", "it is a pipe; write what it would say to a regular file"},
		{"folder", "it is a folder; name the file in it"},
		{"device", "it is a device; write"},
		{"memory", "input/output error"},
		{"socket", "it is a socket; write"},
		{"huge", "it is larger than 1048576 bytes; what is long belongs in files"},
	}
	check := func(t *testing.T, r result, says string) {
		t.Helper()
		if r.status != 2 || !strings.Contains(r.err, says) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%d, %q, want 2, ...%s", r.status, r.err, says)
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			check(t, wolffia(t, filepath.Dir(in(c.name)), "run", "--", "true"), c.says)
			check(t, wolffia(t, filepath.Dir(in(c.name)), "up"), c.says)
			check(t, wolffia(t, dir, "build", "-f", in(c.name), "-o", "x.cpio"), c.says)
			check(t, wolffia(t, dir, "image", "ls", "-f", in(c.name), "base"), c.says)
		})
	}
	check(t, wolffia(t, dir, "run", "-f", "-"), "write it to a file, and name that")
}

// TestErrorsAsJSON: whoever asks for JSON gets nothing else.
func TestErrorsAsJSON(t *testing.T) {
	r := wolffia(t, t.TempDir(), "run", "--json", "nobody")
	var f failure
	if err := json.Unmarshal([]byte(r.err), &f); err != nil || f.Kind != "error" || f.Status != ExitUsage || r.status != ExitUsage ||
		!strings.HasPrefix(f.Message, `unknown machine or image "nobody"`) {
		t.Errorf("%v: %s", err, r.err)
	}
}

// TestUnknownName: a file with machines has more than images to run.
func TestUnknownName(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "wolffia.yaml"), []byte("images: {base: }\nmachines: {alice: }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := wolffia(t, dir, "run", "nobody", "--", "true")
	if want := `unknown machine or image "nobody"; it is one of alice, base`; r.status != ExitUsage || !strings.Contains(r.err, want) {
		t.Errorf("status %d: %s, want %s", r.status, r.err, want)
	}
}

// TestFormatOfName: a folder-like ".tar" within a name used to win over its end.
func TestFormatOfName(t *testing.T) {
	for name, want := range map[string]string{
		"root.cpio": "cpio none", "a/b.TAR.GZ": "tar gzip", "x.tgz": "tar gzip", "my.tarball.cpio.zst": "cpio zstd", "a.tar.old.cpio": "cpio none",
		"disk.img": "disk none gpt", "disk.raw.zst": "disk zstd gpt", "vm.qcow2": "disk none gpt qcow2", "root.ext4.qcow2": "ext4 none qcow2",
		"root.ext2": "ext2 none", "a.ext3.gz": "ext3 gzip", "base.oci": "oci gzip", "base.oci/": "oci gzip",
	} {
		f, err := (&buildVerb{}).formatOf(name)
		if got := formatText(f); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	for _, c := range []struct {
		verb       buildVerb
		name, want string // the format, or what the error says
	}{
		{buildVerb{format: "ext4"}, "root.img", "ext4 none"},
		{buildVerb{format: "qcow2", compress: "zstd", size: "1G"}, "vm", "disk zstd gpt qcow2"},
		{buildVerb{format: "ext3"}, "root.qcow2", "ext3 none qcow2"},
		{buildVerb{format: "qcow2"}, "root.ext4", "ext4 none qcow2"},
		{buildVerb{format: "oci", compress: "zstd"}, "base.tar", "oci zstd"},
		{buildVerb{table: "mbr", kernel: "cloud"}, "x.img.gz", "disk gzip mbr"},
		{buildVerb{}, "vm.vmdk", "vm.vmdk does not say which format"},
		{buildVerb{format: "dsik"}, "x", `did you mean "disk"?`},
		{buildVerb{table: "bsd"}, "x.img", `unknown partition table "bsd"`},
		{buildVerb{table: "gpt"}, "x.ext4", "a partition table is for a disk, and ext4 is none"},
		{buildVerb{}, "x.cpio.qcow2", "a qcow2 holds a disk or a file system, and cpio is neither"},
		{buildVerb{size: "1G"}, "x.tar", "--size is for disks and file systems, and tar is neither"},
		{buildVerb{kernel: "cloud"}, "x.ext4", "--kernel is for disks, and ext4 is none"},
		{buildVerb{}, "x.qcow2.gz", "leave out the last ending"},
		{buildVerb{compress: "none"}, "x.oci", "layers of an OCI image are compressed"},
		{buildVerb{compress: "bzip2"}, "x.tar", "compression"},
	} {
		f, err := c.verb.formatOf(c.name)
		if got := formatText(f); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v %s: %s, %v; want %s", c.verb, c.name, got, err, c.want)
		}
	}
}

// formatText is a format in words.
func formatText(f build.Format) string {
	text := strings.TrimSpace(f.Name + " " + f.Compression + " " + string(f.Table))
	if f.QCOW2 {
		text += " qcow2"
	}
	return text
}

// TestExtension: what a folder's files are called says their format.
func TestExtension(t *testing.T) {
	for _, name := range []string{"x.cpio", "x.tar.gz", "x.ext4", "x.ext2.zst", "x.img", "x.img.gz", "x.qcow2", "x.ext3.qcow2", "x.oci"} {
		f, err := (&buildVerb{}).formatOf(name)
		if got := "x" + extension(f); err != nil || got != name {
			t.Errorf("%s becomes %s, %v", name, got, err)
		}
	}
}

// TestWriteSparse: a disk's holes stay holes, wherever they are.
func TestWriteSparse(t *testing.T) {
	for _, at := range [][]int64{nil, {0}, {1 << 20}, {0, 5 << 20, 8<<20 - 1}} {
		in, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := in.Truncate(8 << 20); err != nil {
			t.Fatal(err)
		}
		for _, off := range at {
			if _, err := in.WriteAt([]byte("x"), off); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(t.TempDir(), "out")
		sum, size, err := writeWhole(out, in)
		if err != nil || size != 8<<20 {
			t.Fatalf("%d bytes, %v", size, err)
		}
		want, err := os.ReadFile(in.Name())
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, want) || sum != fmt.Sprintf("%x", sha256.Sum256(want)) {
			t.Errorf("data at %v: the copy differs, or its digest %s: %v", at, sum, err)
		}
		var a, b unix.Stat_t
		if err := errors.Join(unix.Stat(in.Name(), &a), unix.Stat(out, &b)); err != nil || b.Blocks > a.Blocks+64 {
			t.Errorf("data at %v: the copy takes %d blocks, its source %d, %v", at, b.Blocks, a.Blocks, err)
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
	anyFile := []string{"keyring", "output", "kernel", "input", "gdb"}
	everyCommand(newRoot(Env{}, nil), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			_, has := c.GetFlagCompletionFunc(f.Name)
			if f.NoOptDefVal == "" && has == slices.Contains(anyFile, f.Name) {
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
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, name := range []string{"etc/", "etc/motd", "etc/\x1b[31m", "empty/", "e"} {
		h := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(filepath.Join(dir, "x.tar"), packed.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for start, want := range map[string]string{
		"x.tar:":         "x.tar:e x.tar:empty/ x.tar:etc/ :6",
		"x.tar:/et":      "x.tar:/etc/ :6",
		"x.tar:etc/m":    "x.tar:etc/motd :6",
		"x.tar:/nosuch/": ":6",
		"x.ta":           ":0",
	} {
		r := wolffia(t, dir, "__complete", "image", "ls", start)
		if got := strings.Join(strings.Fields(r.stdout), " "); r.status != 0 || got != want {
			t.Errorf("%s: %q, want %q; %s", start, got, want, r.err)
		}
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

// TestGDBSpelling takes gdb's own way to write flags, of its verb alone and not
// behind the dashes.
func TestGDBSpelling(t *testing.T) {
	for args, want := range map[string]string{
		"gdb -ex bt -batch -- x -ex y": "gdb --ex bt --batch -- x -ex y",
		"gdb -ex=bt --batch -q -e":     "gdb --ex=bt --batch -q -e",
		"run -ex":                      "run -ex",
		"":                             "",
	} {
		if got := strings.Join(gdbSpelling(strings.Fields(args)), " "); got != want {
			t.Errorf("%q: got %q", args, got)
		}
	}
}
