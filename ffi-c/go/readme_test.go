package iicp_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// As a user does it: in a module of its own, with what the documents say.
func TestTheReadmesQuickstartRuns(t *testing.T) {
	runFirstProgram(t, "README.md", "Hello from Go! says ")
}

func TestTheProjectsReadmeRuns(t *testing.T) {
	runFirstProgram(t, "../../README.md", "Hello!\n")
}

func runFirstProgram(t *testing.T, page, prints string) {
	t.Helper()
	_, rest, _ := strings.Cut(string(must(os.ReadFile(page))(t)), "```go\n")
	program, _, _ := strings.Cut(rest, "```\n")
	files := map[string]string{
		"main.go": program,
		"go.mod": "module quickstart\n\ngo 1.24\n\nrequire iicp.network/go/iicp v0.0.0\n\n" +
			"replace iicp.network/go/iicp => " + must(os.Getwd())(t) + "\n",
	}
	folder := t.TempDir()
	for name, text := range files {
		must(0, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))(t)
	}
	cmd := exec.Command("go", "run", ".")
	cmd.Dir = folder
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(output), prints) {
		t.Errorf("%v: %s", err, output)
	}
	if lines := strings.Count(program, "\n"); lines > 50 {
		t.Errorf("%d lines are more than a screen", lines)
	}
}
