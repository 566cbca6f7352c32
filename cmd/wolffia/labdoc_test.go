package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// block is a piece of code in a page.
type block struct{ language, text string }

// blocks are the pieces of code of a page in docs.
func blocks(t *testing.T, page string) (out []block) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?sm)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		out = append(out, block{m[1], m[2]})
	}
	return out
}

// TestLabPage types every command of the page about labs, with the file that it
// begins with.
func TestLabPage(t *testing.T) {
	parallel(t)
	for tool, pkg := range map[string]string{"curl": "curl", "ssh": "openssh-client"} {
		tooltest.Require(t, tool, pkg)
	}
	p := newPerson(t)
	page := blocks(t, "labs.md")
	if len(page) < 4 || page[0].language != "yaml" {
		t.Fatalf("%d pieces, of which the first is no file", len(page))
	}
	l := newLab(t, p, page[0].text)
	bin := p.folder(t, "bin")
	if err := os.Symlink(p.plain(t), filepath.Join(bin, "wolffia")); err != nil {
		t.Fatal(err)
	}
	c := call{dir: l.dir, program: "sh", limit: cold, env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}}
	outputs := map[string]string{}
	for _, b := range page {
		if b.language != "sh" {
			continue
		}
		for line := range strings.Lines(b.text) {
			command := strings.TrimSpace(regexp.MustCompile(`\s#.*`).ReplaceAllString(line, ""))
			who := *p
			if strings.HasPrefix(command, "ssh ") { // which wants a user with a name
				who.uid = os.Getuid()
			}
			outputs[command] = who.run(t, c, "-ec", command).out
		}
	}
	const ask = "curl --unix-socket ~/.local/state/wolffia/labs/office-*/api.sock "
	for command, want := range map[string]string{
		"wolffia exec alice -- ping -c 2 bob":                     " 0% packet loss",
		"wolffia exec alice -- wget -qO- http://web/":             "Hello from web.",
		"wolffia exec bob -- wget -qO- http://web.lan/":           "Hello from web.",
		"curl http://127.0.0.1:8080/":                             "Hello from web.",
		"ssh -F ssh.conf bob uname -m":                            "aarch64",
		"wolffia net":                                             "router/eth1",
		"wolffia capture lan --last 1m -w lan.pcapng":             "",
		"wolffia capture alice --last 1m -w - icmp >alice.pcapng": "",

		ask + "http://lab/v1/machines":                                       `{"name":"router","state":"ready",`,
		ask + "http://lab/v1/links":                                          `"router/eth1"`,
		ask + `-d '{"up": true}' http://lab/v1/links/web%2Fback`:             "null\n",
		ask + `-d '["alice"]' http://lab/v1/restart`:                         "\n{\"end\":{}}\n",
		ask + "-fo back.pcapng 'http://lab/v1/capture?network=back&last=1m'": "",
	} {
		if out, ok := outputs[command]; !ok || !strings.Contains(out, want) {
			t.Errorf("%s: %q", command, out)
		}
	}
	if again := l.do("up", "--dry-run"); !strings.Contains(again, "nothing") {
		t.Errorf("after all of it, up would do: %s", again)
	}
}
