package iicp_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

func TestNoGoroutineOutlivesWhatItBelongsTo(t *testing.T) {
	before := ours()
	for range 20 {
		m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 8}, echo)
		must(m.submit(t.Context(), `{}`))(t)
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		_, _ = m.submit(ctx, `{}`)
		m.close()
	}
	eventually(t, "all goroutines have ended", func() bool { return ours() <= before })
}

func TestTenThousandCancelsTakeNoMemory(t *testing.T) {
	storm := 10_000
	if testing.Short() {
		storm = 500
	}
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 256}, hang)
	wave := func(count int) {
		var all sync.WaitGroup
		for range 50 {
			all.Add(1)
			go func() {
				defer all.Done()
				for range count / 50 {
					ctx, cancel := context.WithCancel(context.Background())
					go cancel()
					if _, err := m.submit(ctx, `{}`); !errors.Is(err, iicp.ErrCancelled) && !errors.Is(err, iicp.ErrCapacity) {
						t.Errorf("got %v", err)
					}
					cancel()
				}
			}()
		}
		all.Wait()
	}
	wave(storm / 5)
	warm := resident(t)
	wave(storm - storm/5)
	eventually(t, "no task runs", func() bool { return must(m.node.Status())(t).ActiveJobs == 0 })
	if grown := resident(t) - warm; !testing.Short() && grown > 32<<10 {
		t.Errorf("grew by %d KiB", grown)
	}
}

// resident is the memory of this process in KiB, after a collection.
func resident(t testing.TB) int {
	runtime.GC()
	status := string(must(os.ReadFile("/proc/self/status"))(t))
	_, rest, _ := strings.Cut(status, "VmRSS:")
	kib := must(strconv.Atoi(strings.Fields(rest)[0]))(t)
	return kib
}

func TestManyGoroutinesShareOneClient(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 64}, echo)
	var all sync.WaitGroup
	for i := range 16 {
		all.Add(1)
		go func() {
			defer all.Done()
			for k := range 20 {
				payload := `{"n":` + strconv.Itoa(i*1000+k) + `}`
				result, err := m.submit(context.Background(), payload)
				if err != nil || string(result.Result) != payload {
					t.Errorf("got %v %v, not %s", result, err, payload)
				}
			}
		}()
	}
	all.Wait()
}

func TestClosingWhileCallsBeginIsACode(t *testing.T) {
	for range 20 {
		m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 64}, echo)
		var all sync.WaitGroup
		for range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				for {
					_, err := m.submit(context.Background(), `{}`)
					if errors.Is(err, iicp.ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("got %v", err)
						return
					}
				}
			}()
		}
		time.AfterFunc(time.Millisecond, func() { m.client.Close() })
		all.Wait()
	}
}

// child does what a child process is asked to, and never returns if it is one.
func child() {
	task := os.Getenv("IICP_TEST_CHILD")
	if task == "" {
		return
	}
	directory, _ := iicp.LoopbackDirectory()
	running := make(chan struct{})
	handler := func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		close(running)
		return hang(ctx, task)
	}
	opts := iicp.NodeOptions{Intents: []string{iicp.IntentChat}, Directory: directory.URL()}
	node, _ := iicp.Serve(context.Background(), opts, iicp.HandlerFunc(handler))
	client, _ := iicp.NewClient(iicp.ClientOptions{Directory: directory.URL()})
	go client.Submit(context.Background(), iicp.Task{Intent: iicp.IntentChat, Payload: []byte(`{}`)})
	<-running
	switch task {
	case "exit":
		os.Exit(3)
	case "panic":
		panic("on purpose")
	case "close":
		node.Close()
		client.Close()
		os.Exit(3)
	}
}

func TestAProcessMayEndInTheMiddleOfATask(t *testing.T) {
	for task, status := range map[string]int{"exit": 3, "panic": 2, "close": 3} {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "IICP_TEST_CHILD="+task)
		output, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != status {
			t.Errorf("%s: exit status %d, %v:\n%s", task, code, err, output)
		}
	}
}

func TestMain(m *testing.M) {
	child()
	os.Exit(m.Run())
}
