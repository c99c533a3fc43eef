//go:build linux && !client

package main

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestJoinErrands: a data path in the wrong hands that has an edge joined again and again, for the share of opens that each
// connection begins with, gets few.
func TestJoinErrands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		joins := 0
		r := runner{join: func() (*os.File, error) {
			joins++
			return nil, errNoEdge
		}}
		for range 100 {
			r.file(errand{File: edgeFile})
		}
		if joins != 1 {
			t.Errorf("joined %d times at once", joins)
		}
		time.Sleep(rejoinEvery)
		if r.file(errand{File: edgeFile}); joins != 2 {
			t.Errorf("a second later: joined %d times", joins)
		}
	})
}
