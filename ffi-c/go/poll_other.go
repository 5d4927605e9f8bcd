//go:build !unix

package iicp

import "os"

// pollable: only a thread can wait for events here.
func pollable(uint64) *os.File { return nil }
