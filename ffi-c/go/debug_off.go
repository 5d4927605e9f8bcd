//go:build !iicpdebug

package iicp

func around[T any](call func() T) T { return call() }
