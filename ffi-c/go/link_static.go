//go:build iicp_static

package iicp

// #cgo pkg-config: iicp-static
import "C"
