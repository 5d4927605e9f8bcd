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
	runProgram(t, "README.md", 0, "Hello from Go! says ")
}

func TestTheReadmesStreamRuns(t *testing.T) {
	runProgram(t, "README.md", 1, "Hello, mesh. true\n")
}

func TestTheReadmesRankerRuns(t *testing.T) {
	runProgram(t, "README.md", 2, "[[0.5 1]] external_ranker/least-loaded/normal\n")
}

func TestTheProjectsReadmeRuns(t *testing.T) {
	runProgram(t, "../../README.md", 0, "Hello!\n")
}

// runProgram runs a program of a page, by its place.
func runProgram(t *testing.T, page string, place int, prints string) {
	t.Helper()
	programs := strings.Split(string(must(os.ReadFile(page))(t)), "```go\n")[1:]
	program, _, _ := strings.Cut(programs[place], "```\n")
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
