package iicp

// Ptr is a pointer to a value, for options whose zero means something else than their absence: Temperature: iicp.Ptr(0.0).
func Ptr[T any](value T) *T { return &value }
