package importer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"wolffia/internal/lab"
)

// accepted imports a lab and holds the result to what Import promises: either
// mistakes of the lab's, or a file that wolffia reads.
func accepted(t *testing.T, files map[string]string, name string, o Options) {
	t.Helper()
	r, err := Import(folder(files), name, o)
	if err != nil {
		if !errors.As(err, new(lab.Errors)) {
			t.Fatalf("%v", err)
		}
		return
	}
	again, err := lab.Parse("wolffia.yaml", r.File)
	if err != nil || len(again.Machines) == 0 {
		t.Fatalf("%v\n%s", err, r.File)
	}
	// What the file says is what the boot script is made of, whatever characters
	// are in it.
	for _, image := range again.Images {
		last := image.Files[0].Content
		for _, f := range image.Files {
			if f.Path == "/etc/init.d/lab" {
				last = f.Content
			}
		}
		if !strings.HasPrefix(last, "#!/bin/sh\n"+bootHead) || !strings.HasSuffix(last, bootRest) {
			t.Fatalf("the boot script has changed:\n%q", last)
		}
	}
}

func folder(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return out
}

// seeds are the labs in testdata.
func seeds(f *testing.F, pattern string) {
	names, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
}

func FuzzLabConf(f *testing.F) {
	seeds(f, "*/lab.conf")
	f.Fuzz(func(t *testing.T, conf string) {
		accepted(t, map[string]string{"lab.conf": conf, "pc1.startup": conf, "lab.dep": conf, "shared/x": ""}, "lab.conf", Options{})
	})
}

func FuzzTopology(f *testing.F) {
	seeds(f, "*.clab.yml")
	f.Fuzz(func(t *testing.T, text string) {
		accepted(t, map[string]string{"a.clab.yml": text}, "a.clab.yml", Options{Home: "/home/a"})
	})
}
