package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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

// TestNetworkPage types the commands of the page about a machine's network, with a
// key of its own in the place of the page's, and a server in that of python3.
func TestNetworkPage(t *testing.T) {
	parallel(t)
	ssh := tooltest.Require(t, "ssh", "openssh-client")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the host") })}
	go server.Serve(l)
	defer server.Close()
	p, id := newPerson(t), newIdentity(t)
	sshPort := freePort(t)
	// Others may have the page's ports.
	ports := strings.NewReplacer(":8000", fmt.Sprintf(":%d", l.Addr().(*net.TCPAddr).Port), "5523", strconv.Itoa(sshPort))
	dir, bin := p.folder(t, "lab"), p.folder(t, "bin")
	if err := os.Symlink(p.plain(t), filepath.Join(bin, "wolffia")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.try(t, call{dir: dir}, "down", "--volumes") })
	outputs := map[string]string{}
	for _, b := range blocks(t, "network.md") {
		if b.language == "yaml" {
			p.write(t, filepath.Join(dir, "wolffia.yaml"), regexp.MustCompile("ssh-ed25519 [^\"]*").ReplaceAllLiteralString(ports.Replace(b.text), id.public))
			continue
		}
		for command := range strings.Lines(b.text) {
			command = strings.TrimSpace(command)
			switch tool, args, _ := strings.Cut(command, " "); tool {
			case "wolffia":
				c := call{dir: dir, program: "sh", limit: cold, env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}}
				outputs[command] = p.run(t, c, "-ec", ports.Replace(command)).out
			case "ssh": // of whoever runs the tests: it wants an account with a name
				out, err := exec.CommandContext(t.Context(), ssh, append(append(id.flags("-p", sshPort), strings.Fields(ports.Replace(args))...), "hostname")...).CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", command, err, out)
				}
				outputs[command] = string(out)
			case "python3", "kill", "sudo":
			default:
				t.Errorf("nobody tries %q", command)
			}
		}
	}
	for command, want := range map[string]string{
		"wolffia run -- wget -qO- http://10.0.2.2:8000/": "the host",
		"ssh -p 5523 root@127.0.0.1":                     "alice\n",
	} {
		if out, ok := outputs[command]; !ok || out != want {
			t.Errorf("%s: %q", command, out)
		}
	}
}
