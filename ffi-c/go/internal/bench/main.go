// Command bench is the Go client as a child of the benches: bench DIRECTORY IN_FLIGHT PAYLOAD.
//
// It says a line of JSON when it is ready, and answers "run N" with what N submits took.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"iicp.network/go/iicp"
)

func main() {
	if err := obey(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func obey(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: bench DIRECTORY IN_FLIGHT PAYLOAD")
	}
	inFlight, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	sealed := false // The stub has no key.
	policy := &iicp.RoutingPolicy{RequireEncryption: &sealed}
	client, err := iicp.NewClient(iicp.ClientOptions{Directory: args[0], RoutingPolicy: policy})
	if err != nil {
		return err
	}
	defer client.Close()
	if to := os.Getenv("IICP_BENCH_PROFILE"); to != "" {
		file, err := os.Create(to)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	task := iicp.Task{Intent: iicp.IntentChat, Payload: json.RawMessage(args[2])}
	fmt.Println("{}")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		count, _ := strings.CutPrefix(lines.Text(), "run ")
		many, err := strconv.ParseInt(count, 10, 64)
		if err != nil {
			return err
		}
		before, since := cpu(), time.Now()
		if err := submitAll(client, task, many, inFlight); err != nil {
			return err
		}
		fmt.Printf("{\"cpu_ns\":%d,\"wall_ns\":%d}\n", cpu()-before, time.Since(since))
	}
	return nil
}

// submitAll submits so many tasks, so many at a time.
func submitAll(client *iicp.Client, task iicp.Task, count int64, inFlight int) error {
	var left atomic.Int64
	left.Store(count)
	failures := make(chan error, inFlight)
	var lanes sync.WaitGroup
	for range inFlight {
		lanes.Add(1)
		go func() {
			defer lanes.Done()
			for left.Add(-1) >= 0 {
				if _, err := client.Submit(context.Background(), task); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	lanes.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// cpu is the CPU time of this process so far.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
