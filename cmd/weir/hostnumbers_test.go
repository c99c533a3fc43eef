//go:build linux && !client

package main

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestLockNumbers: whoever comes second chooses when the first has taken its numbers.
func TestLockNumbers(t *testing.T) {
	unlock := lockNumbers()
	if ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@weir-tproxy"}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("nobody is kept out: %v, %v", ln, err)
	}
	var first atomic.Bool
	done := make(chan bool)
	go func() {
		unlock := lockNumbers()
		defer unlock()
		done <- first.Load()
	}()
	first.Store(true)
	unlock()
	if !<-done {
		t.Error("two hold the lock")
	}
}
