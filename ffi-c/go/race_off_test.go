//go:build !race

package iicp_test

const raceDetector = false
