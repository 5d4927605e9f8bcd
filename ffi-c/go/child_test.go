package iicp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// child is the test that runs it, in a process of its own: what a process does at its end cannot be seen from inside.
type child struct {
	*exec.Cmd
	t     *testing.T
	stdin io.WriteCloser
	lines *bufio.Scanner
	says  strings.Builder
	errs  bytes.Buffer
}

// inChild tells whether this is the process that a test was started in again.
func inChild() bool { return os.Getenv("IICP_TEST_CHILD") != "" }

// ready says to the parent that the child has come to where it is wanted.
func ready() { fmt.Println("\nready") }

// startChild runs the test again, which asks inChild.
func startChild(t *testing.T, env ...string) *child {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &child{t: t, Cmd: exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")}
	c.Env = append(append(os.Environ(), "IICP_TEST_CHILD=1"), env...)
	c.Stderr = &c.errs
	c.stdin = must(c.StdinPipe())(t)
	c.lines = bufio.NewScanner(must(c.StdoutPipe())(t))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// untilReady waits until the child has said so.
func (c *child) untilReady() {
	c.t.Helper()
	for c.lines.Scan() {
		if c.lines.Text() == "ready" {
			return
		}
		fmt.Fprintln(&c.says, c.lines.Text())
	}
	c.Wait()
	c.t.Fatalf("the child ended too early: %v\n%s%s", c.ProcessState, &c.says, &c.errs)
}

// ends waits for the end, which comes soon, and holds it against how it should be.
func (c *child) ends(want string) {
	c.t.Helper()
	const soon = 30 * time.Second
	begun := time.Now()
	for c.lines.Scan() {
		fmt.Fprintln(&c.says, c.lines.Text())
	}
	c.Wait()
	if got := c.ProcessState.String(); got != want {
		c.t.Errorf("the child ended with %s, not %s:\n%s%s", got, want, &c.says, &c.errs)
	}
	if took := time.Since(begun); took > soon {
		c.t.Errorf("it took the child %v to end", took)
	}
}

// alone tells the test to go on in a process of its own. In the first process it waits for that, and is false.
func alone(t *testing.T) bool {
	t.Helper()
	if inChild() {
		return true
	}
	startChild(t).ends("exit status 0")
	return false
}
