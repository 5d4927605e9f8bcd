package iicp_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"iicp.network/go/iicp"
)

// busyMesh is a mesh in which tasks hang, so many of them at a time, and as many calls that wait for them.
func busyMesh(t *testing.T, ctx context.Context, tasks int) *mesh {
	var running sync.WaitGroup
	running.Add(tasks)
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: int64(tasks)}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		running.Done()
		return hang(ctx, task)
	})
	for range tasks {
		go m.submit(ctx, `{}`)
	}
	running.Wait()
	return m
}

func TestAProcessMayExitWhileTasksRun(t *testing.T) {
	if inChild() {
		busyMesh(t, context.Background(), 100)
		ready()
		os.Exit(3)
	}
	c := startChild(t)
	c.untilReady()
	c.ends("exit status 3")
}

func TestAProcessMayPanicWhileTasksRun(t *testing.T) {
	if inChild() {
		busyMesh(t, context.Background(), 100)
		ready()
		go panic("on purpose")
		select {}
	}
	c := startChild(t)
	c.untilReady()
	c.ends("exit status 2")
}

func TestEverythingMayBeClosedWhileTasksRun(t *testing.T) {
	if alone(t) {
		busyMesh(t, context.Background(), 100).close()
	}
}

func TestCtrlCEndsAWaitOfThoseWhoListen(t *testing.T) {
	if inChild() {
		m := newMesh(t, iicp.NodeOptions{}, hang)
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		go func() {
			eventually(t, "the task runs", func() bool { return must(m.node.Status())(t).ActiveJobs == 1 })
			ready()
		}()
		if _, err := m.submit(ctx, `{}`); !errors.Is(err, iicp.ErrCancelled) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		return
	}
	c := startChild(t)
	c.untilReady()
	must(0, c.Process.Signal(os.Interrupt))(t)
	c.ends("exit status 0")
}

func TestCtrlCEndsTheProcessWhereNobodyListens(t *testing.T) {
	if inChild() {
		m := busyMesh(t, context.Background(), 1)
		ready()
		m.submit(context.Background(), `{}`)
	}
	c := startChild(t)
	c.untilReady()
	must(0, c.Process.Signal(os.Interrupt))(t)
	c.ends("signal: interrupt")
}

func TestAHandlerThatHangsForEverHoldsUpNobody(t *testing.T) {
	if !alone(t) {
		return
	}
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 1}, func(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		if string(task.Payload) == `"hang"` {
			select {}
		}
		return iicp.Reply{Result: task.Payload}, nil
	})
	for range 3 {
		_, err := m.client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, TimeoutMs: 200, Payload: []byte(`"hang"`)})
		if !errors.Is(err, iicp.ErrTimeout) && !errors.Is(err, iicp.ErrTaskTimeout) {
			t.Errorf("got %v", err)
		}
		must(m.submit(t.Context(), `"echo"`))(t)
	}
	go m.submit(context.Background(), `"hang"`)
	eventually(t, "the task runs", func() bool { return must(m.node.Status())(t).ActiveJobs == 1 })
	if err := m.node.Close(); err != nil {
		t.Error(err)
	}
}

func TestAHandlerMayCloseItsOwnNode(t *testing.T) {
	if !alone(t) {
		return
	}
	nodes := make(chan *iicp.Node, 1)
	m := newMesh(t, iicp.NodeOptions{}, func(context.Context, *iicp.Inbound) (iicp.Reply, error) {
		node := <-nodes
		return iicp.Reply{}, node.Close()
	})
	nodes <- m.node
	if _, err := m.submit(t.Context(), `{}`); err == nil {
		t.Error("a task of a closed node was answered")
	}
	if err := m.node.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := m.node.Status(); !errors.Is(err, iicp.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// With no goroutine that can run, the library still says that the node lives.
func TestAGoProgramThatIsStuckDelaysNoHeartbeat(t *testing.T) {
	const stuck = 5 * time.Second
	if inChild() {
		handler := func(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
			ready()
			// The scheduler does not learn of it, so the only processor is taken.
			wait := syscall.NsecToTimespec(stuck.Nanoseconds())
			syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&wait)), 0, 0)
			return iicp.Reply{Result: task.Payload}, nil
		}
		options := iicp.NodeOptions{Intents: []string{iicp.IntentChat}, Directory: os.Getenv("IICP_TEST_DIRECTORY")}
		defer must(iicp.Serve(context.Background(), options, iicp.HandlerFunc(handler)))(t).Close()
		ready()
		must(os.Stdin.Read(make([]byte, 1)))(t)
		return
	}
	options := iicp.DirectoryOptions{Limits: iicp.Ptr(false), Probe: iicp.Ptr(false), QosGating: iicp.Ptr(false)}
	options.HeartbeatMs, options.NodeTTLMs = 200, 2000
	directory := must(iicp.NewDirectory(options))(t)
	defer directory.Close()
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: directory.URL()}))(t)
	defer client.Close()
	c := startChild(t, "IICP_TEST_DIRECTORY="+directory.URL(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	c.untilReady()
	answered := make(chan error, 1)
	go func() {
		_, err := client.Submit(context.Background(), iicp.Task{Intent: iicp.IntentChat, Payload: []byte(`{}`)})
		answered <- err
	}()
	c.untilReady()
	for begun := time.Now(); time.Since(begun) < stuck-time.Second/2; time.Sleep(50 * time.Millisecond) {
		if nodes := must(client.Discover(t.Context(), iicp.Discover{Intent: iicp.IntentChat}))(t); len(nodes) != 1 {
			t.Fatalf("the directory lost the node after %v", time.Since(begun))
		}
	}
	if len(answered) > 0 {
		t.Error("the child was not stuck")
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	must(c.stdin.Write([]byte("\n")))(t)
	c.ends("exit status 0")
}

func TestTenThousandCancelsTakeNoMemory(t *testing.T) {
	if !alone(t) {
		return
	}
	const storm, lanes = 10_000, 50
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 256}, hang)
	before := resident(t)
	grown := func(tasks int) int {
		var all sync.WaitGroup
		for range lanes {
			all.Add(1)
			go func() {
				defer all.Done()
				for range tasks / lanes {
					// Some end before anything was sent, some while the handler runs.
					ctx, cancel := context.WithTimeout(context.Background(), rand.N(2*time.Millisecond))
					if _, err := m.submit(ctx, `{}`); !errors.Is(err, iicp.ErrTimeout) && !errors.Is(err, iicp.ErrCapacity) {
						t.Errorf("got %v", err)
					}
					cancel()
				}
			}()
		}
		all.Wait()
		eventually(t, "no task runs", func() bool { return must(m.node.Status())(t).ActiveJobs == 0 })
		return resident(t) - before
	}
	warm := grown(storm / 5)
	if cold := grown(storm); cold-warm > most(16<<10) {
		t.Errorf("grew by %d KiB", cold-warm)
	}
}

func TestCallsTakeNoMemory(t *testing.T) {
	if !alone(t) {
		return
	}
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 64, ReplayBytes: 64 << 10, ResultBytes: iicp.Ptr[int64](0)}, echo)
	calls := func(count int) int {
		var all sync.WaitGroup
		for range 16 {
			all.Add(1)
			go func() {
				defer all.Done()
				for range count / 16 {
					if _, err := m.submit(context.Background(), `{}`); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		all.Wait()
		return resident(t)
	}
	// Sealed by a library that is not optimised, a call takes milliseconds.
	warm := calls(1_500)
	if grown := calls(3_000) - warm; grown > most(2<<10) {
		t.Errorf("grew by %d KiB", grown)
	}
}

// resident is the memory of this process in KiB, after a collection.
func resident(t testing.TB) int {
	debug.FreeOSMemory()
	status := string(must(os.ReadFile("/proc/self/status"))(t))
	_, rest, _ := strings.Cut(status, "VmRSS:")
	return must(strconv.Atoi(strings.Fields(rest)[0]))(t)
}

// most is a bound in KiB; the race detector remembers much of its own.
func most(kib int) int {
	if raceDetector {
		return 8*kib + 128<<10
	}
	return kib
}

func TestForcedCollectionsFindNothingToBreak(t *testing.T) {
	if !alone(t) {
		return
	}
	debug.SetGCPercent(1)
	m := newMesh(t, iicp.NodeOptions{MaxConcurrent: 64}, func(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		runtime.GC()
		return iicp.Reply{Result: task.Payload}, nil
	})
	manyCalls(t, m, 8, 25)
}

func TestManyGoroutinesShareOneClient(t *testing.T) {
	manyCalls(t, newMesh(t, iicp.NodeOptions{MaxConcurrent: 64}, echo), 16, 50)
}

// manyCalls makes calls on several goroutines, each with a payload of its own that has to come back.
func manyCalls(t *testing.T, m *mesh, lanes, each int) {
	var all sync.WaitGroup
	for lane := range lanes {
		all.Add(1)
		go func() {
			defer all.Done()
			for call := range each {
				payload := `{"n":"` + strings.Repeat(strconv.Itoa(lane*each+call), 1+call%7*100) + `"}`
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
