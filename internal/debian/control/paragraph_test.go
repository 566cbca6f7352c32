package control

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func readAll(r io.Reader, opts ReaderOptions) ([]*Paragraph, error) {
	var all []*Paragraph
	pr := NewReader(r, opts)
	for {
		p, err := pr.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
}

func TestReader(t *testing.T) {
	const text = "\n\nPackage: a\nDescription: short\n long line  \n .\n\tend\nEmpty:\nSHA256:\n aa 1 x\n bb 2 y\n \t \nNext: one: two\n\n\n"
	want := []*Paragraph{
		{Line: 3, Fields: []Field{{"Package", "a"}, {"Description", "short\n long line\n .\n\tend"}, {"Empty", ""}, {"SHA256", "\n aa 1 x\n bb 2 y"}}},
		{Line: 13, Fields: []Field{{"Next", "one: two"}}},
	}
	for name, in := range map[string]string{"lf": text, "crlf": strings.ReplaceAll(text, "\n", "\r\n"), "no end": strings.TrimRight(text, "\n")} {
		got, err := readAll(strings.NewReader(in), ReaderOptions{})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		got, err = readAll(iotest.OneByteReader(strings.NewReader(in)), ReaderOptions{})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s, byte by byte: %v, %v", name, got, err)
		}
	}
	p := want[0]
	if p.Get("package") != "a" || p.Get("nothing") != "" || !reflect.DeepEqual(p.Lines("sha256"), []string{"aa 1 x", "bb 2 y"}) {
		t.Errorf("%v", p)
	}
	again, err := readAll(strings.NewReader(p.String()), ReaderOptions{})
	if err != nil || !reflect.DeepEqual(again[0].Fields, p.Fields) {
		t.Errorf("written as %q", p.String())
	}
	p.Set("PACKAGE", "b")
	p.Set("New", "c")
	if p.Get("Package") != "b" || p.Get("New") != "c" || len(p.Fields) != 5 {
		t.Errorf("%v", p)
	}
}

func TestReaderComments(t *testing.T) {
	const text = "# head\nA: 1\n# within\n 2\n#\n\n# alone\n\nB: 3\n"
	got, err := readAll(strings.NewReader(text), ReaderOptions{Comments: true})
	if err != nil || len(got) != 2 || got[0].Get("A") != "1\n 2" || got[1].Get("B") != "3" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := readAll(strings.NewReader(text), ReaderOptions{}); err == nil || !strings.Contains(err.Error(), "line 1: a comment") {
		t.Errorf("comments that are not allowed: %v", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	small := ReaderOptions{MaxLine: 100, MaxParagraph: 300, MaxFields: 3}
	for text, want := range map[string]string{
		" a\n":                   "line 1: continuation line without a field",
		"A: 1\nno field\n":       "line 2: \"no field\" is not a field",
		": 1\n":                  "is not a field",
		"A b: 1\n":               "can't have",
		"A\x00: 1\n":             "can't have",
		"Ä: 1\n":                 "can't have",
		"-A: 1\n":                "can't start",
		"A: 1\na: 2\n":           "line 2: field a stands twice",
		"A: 1\nB: 2\nC: 3\nD: 4": "more than 3 fields",
		strings.Repeat("x", 103): "longer than 100 bytes",
		"A: 1\n" + strings.Repeat(" "+strings.Repeat("x", 90)+"\n", 4): "longer than 300 bytes",
	} {
		_, err := readAll(strings.NewReader(text), small)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
	if _, err := readAll(strings.NewReader("A: "+strings.Repeat("x", 97)+"\n"), small); err != nil {
		t.Errorf("a line of just the limit: %v", err)
	}
	r := NewReader(strings.NewReader("A: 1\nbad\n\nB: 2\n"), ReaderOptions{})
	_, first := r.Next()
	if _, second := r.Next(); first == nil || second != first {
		t.Errorf("after an error: %v, %v", first, second)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(twoPackages))
	f.Add([]byte("# c\nA: 1\n#\n 2\r\n\r\nB:\n x\n"))
	f.Add([]byte("A:\n\n \nB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, comments := range []bool{false, true} {
			opts := ReaderOptions{Comments: comments, MaxLine: 1 << 12, MaxParagraph: 1 << 14}
			list, err := readAll(bytes.NewReader(data), opts)
			slow, slowErr := readAll(iotest.OneByteReader(bytes.NewReader(data)), opts)
			if (err == nil) != (slowErr == nil) || !reflect.DeepEqual(list, slow) {
				t.Fatalf("reading byte by byte differs: %v, %v", err, slowErr)
			}
			for _, p := range list {
				again, err := readAll(strings.NewReader(p.String()), ReaderOptions{Comments: comments})
				if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0].Fields, p.Fields) {
					t.Fatalf("%q is written as %q, which reads as %v, %v", p.Fields, p.String(), again, err)
				}
			}
		}
	})
}
