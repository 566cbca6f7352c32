package lab

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPages: what the pages show of the file is right. A piece that describes no
// images gets one; one that is a machine's is put into a machine.
func TestPages(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	pieces := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?sm)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
			pieces++
			whole := m[1]
			if !strings.Contains(whole, "images:") {
				whole = "images: {base: }\n" + whole
			}
			machine := "images: {base: }\nnetworks: {lan: }\nmachines:\n  m:\n    " + strings.ReplaceAll(m[1], "\n", "\n    ")
			if _, err := Parse(filepath.Base(page), []byte(whole)); err != nil {
				if _, inside := Parse(filepath.Base(page), []byte(machine)); inside != nil {
					t.Errorf("%s\n%v", m[1], err)
				}
			}
		}
	}
	if pieces < 10 {
		t.Errorf("only %d pieces were found", pieces)
	}
}
