//go:build iicpdebug

package iicp

import "runtime"

// around runs a call into the library between two collections, so that memory which Go may move or free too early is
// found by tests.
func around[T any](call func() T) T {
	runtime.GC()
	defer runtime.GC()
	return call()
}
