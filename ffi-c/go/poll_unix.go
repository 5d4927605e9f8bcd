//go:build unix

package iicp

import (
	"os"
	"syscall"
)

// pollable lets Go's event loop watch the descriptor of a queue, so that no thread has to wait for it. Nil if there is
// none.
func pollable(queue uint64) *os.File {
	fd, ok := queueFD(queue)
	if !ok {
		return nil
	}
	// The file has to close what it watches, but the queue's own descriptor is the queue's to close.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	own, err := syscall.Dup(fd)
	if err != nil {
		return nil
	}
	syscall.CloseOnExec(own)
	return os.NewFile(uintptr(own), "events of iicp")
}
