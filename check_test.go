package wolffia_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestCheckInstalls holds ./check to install every package that a test asks for.
func TestCheckInstalls(t *testing.T) {
	script, err := os.ReadFile("check")
	if err != nil {
		t.Fatal(err)
	}
	installed := map[string]bool{"golang-go": true} // what runs the tests
	for _, m := range regexp.MustCompile(`\[[\w./-]+\]=(\S+)`).FindAllStringSubmatch(string(script), -1) {
		installed[m[1]] = true
	}
	asked := 0
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || f.Sel.Name != "Require" {
				return true
			}
			pkg, ok := call.Args[2].(*ast.BasicLit)
			if !ok {
				return true // out of a table
			}
			name, _ := strconv.Unquote(pkg.Value)
			if asked++; !installed[name] {
				t.Errorf("%s asks for package %s, which check does not install", path, name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if asked < 50 {
		t.Errorf("only %d requests were found", asked)
	}
}
