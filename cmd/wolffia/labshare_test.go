package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wolffia/internal/tooltest"
)

// sharedFolders makes the folders work and fixed, and one beside them that no
// machine is to see, with links to it.
func (l *lab) sharedFolders() {
	l.t.Helper()
	for _, name := range []string{"lab/work", "lab/fixed", "lab/secret"} {
		l.write(l.t, filepath.Join(l.folder(l.t, name), "word"), "of "+filepath.Base(name)+"\n")
	}
	for name, to := range map[string]string{"relative": "../secret", "absolute": filepath.Join(l.dir, "secret")} {
		if err := os.Symlink(to, filepath.Join(l.dir, "work", name)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// hostFile is what a file of the lab's folder holds.
func (l *lab) hostFile(name string) string {
	b, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestLabShares has machines of both kinds see folders of the host.
func TestLabShares(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	p := newPerson(t)
	const shares = "shares: [{from: ./work, to: /mnt/work}, {from: ./fixed, to: /mnt/fixed, read-only: true}]"
	file := small + "networks: {lan: }\nmachines:\n  anna: {networks: [lan], " + shares + "}\n  bert: {networks: [lan], backend: qemu, " + shares + "}\n"
	l := newLab(t, p, file)
	l.sharedFolders()
	l.do("up")
	for _, m := range []string{"anna", "bert"} {
		if out := l.in(m, "cat /mnt/work/word /mnt/fixed/word"); out != "of work\nof fixed\n" {
			t.Errorf("%s: %q", m, out)
		}
		// What it writes is the person's, whoever writes there.
		l.in(m, "mkdir /mnt/work/"+m+"; echo from "+m+" >/mnt/work/"+m+"/back")
		info, err := os.Stat(filepath.Join(l.dir, "work", m, "back"))
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != p.uid || l.hostFile("work/"+m+"/back") != "from "+m+"\n" {
			t.Errorf("%s: %v, %v: %q", m, info, err, l.hostFile("work/"+m+"/back"))
		}
		l.in(m, "if echo x >/mnt/fixed/new; then exit 1; fi; if rm -f /mnt/fixed/word; then exit 1; fi; mount -o remount,rw /mnt/fixed || true; ! echo x >/mnt/fixed/word")
		if got := l.hostFile("fixed/word"); got != "of fixed\n" {
			t.Errorf("%s changed what is only to be read: %q", m, got)
		}
		// There is no way out, by links of the host's or of its own.
		out := l.in(m, fmt.Sprintf("cd /mnt/work; ln -s ../secret own-%[1]s; for f in relative absolute own-%[1]s ../secret; do cat $f/word || true; done 2>/dev/null", m))
		if strings.Contains(out, "secret") {
			t.Errorf("%s sees what lies beside: %q", m, out)
		}
	}
	// Changes are seen at once: of the host by both, of one machine by the other.
	p.write(t, filepath.Join(l.dir, "work", "live"), "first\n")
	l.in("anna", "grep first /mnt/work/live")
	l.in("bert", "grep first /mnt/work/live; grep anna /mnt/work/anna/back")
	p.write(t, filepath.Join(l.dir, "work", "live"), "second, and longer\n")
	l.in("anna", "grep second /mnt/work/live; grep bert /mnt/work/bert/back; echo third >/mnt/work/live")
	l.in("bert", "grep third /mnt/work/live")
	if got := l.hostFile("work/live"); got != "third\n" {
		t.Errorf("%q", got)
	}
	// Nothing is to do, and then one machine sees other folders.
	if plan := l.do("up", "--dry-run"); !strings.Contains(plan, "nothing") {
		t.Errorf("still to do: %s", plan)
	}
	changed := strings.Replace(file, "{from: ./work, to: /mnt/work}, ", "", 1)
	l.file(changed)
	if plan := l.do("up", "--dry-run"); plan != "restart machine anna: shares\n" {
		t.Errorf("the plan is %q", plan)
	}
	l.do("up")
	l.in("anna", "cat /mnt/fixed/word; ! test -e /mnt/work")
	// A folder that is not there is a mistake in the file, and changes nothing.
	l.file(strings.Replace(file, "./work", "./wrok", 1))
	want := "wolffia.yaml:5:43: there is no folder " + filepath.Join(l.dir, "wrok")
	if e := l.fails(2, "up"); !strings.Contains(e, want) {
		t.Errorf("%q does not say %q", e, want)
	}
	l.in("anna", "cat /mnt/fixed/word")
}

// TestRunShare shows a throwaway machine folders of the host.
func TestRunShare(t *testing.T) {
	parallel(t)
	l := newLab(t, newPerson(t), small)
	l.sharedFolders()
	script := "cat /mnt/a/word /mnt/b/word; echo new >/mnt/a/new; ! echo new >/mnt/b/new"
	o := l.run(t, call{dir: l.dir, limit: cold}, "run", "--share", "work:/mnt/a", "--share", "./fixed:/mnt/b:ro", "--", "sh", "-ec", script)
	if o.out != "of work\nof fixed\n" || l.hostFile("work/new") != "new\n" {
		t.Error(o)
	}
	if err := os.Mkdir(filepath.Join(l.dir, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"closed:/mnt":        "you may not look into " + filepath.Join(l.dir, "closed"),
		"work":               "write it as ./src:/mnt/src",
		"work:mnt":           `path "mnt" must start with a slash`,
		"work:/":             "the machine's root, which nothing goes over",
		"work/word:/mnt":     "is no folder",
		"./nowhere:/mnt":     "there is no folder " + filepath.Join(l.dir, "nowhere"),
		"work:/mnt/$(false)": "letters, digits",
	} {
		if e := l.fails(2, "run", "--share", text, "--", "true"); !strings.Contains(e, want) {
			t.Errorf("--share %s: %q does not say %q", text, e, want)
		}
	}
	if e := l.fails(2, "run", "--share", "work:/mnt", "--share", "fixed:/mnt", "--", "true"); !strings.Contains(e, "/mnt already") {
		t.Error(e)
	}
}
