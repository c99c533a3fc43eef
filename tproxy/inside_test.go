//go:build linux

package tproxy

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tproxy/rules"
)

// lockThread keeps the test on its thread, which goes back to its network namespace at the end of the test.
func lockThread(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer home.Close()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err) // the thread stays locked, and ends with the test
		}
		runtime.UnlockOSThread()
	})
}

// socketHere opens sockets in the namespace that the test is in now, from whatever thread it is asked for.
func socketHere(t *testing.T) func(bool) (int, error) {
	t.Helper()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	return func(ipv6 bool) (fd int, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: the thread ends here
			if err = unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err == nil {
				fd, err = rules.FlowSocket(ipv6)
			}
		}()
		<-done
		return fd, err
	}
}
