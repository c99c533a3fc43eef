//go:build linux && !client

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestListenJoins: of what is at the socket's path only a socket that nobody listens on is replaced.
func TestListenJoins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := listenJoins(path); err == nil {
		ln.Close()
		t.Error("a file that is no socket was replaced")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file holds %q", b)
	}
	os.Remove(path)

	stream, err := net.Listen("unix", path) // another program's
	if err != nil {
		t.Fatal(err)
	}
	if ln, err := listenJoins(path); err == nil {
		ln.Close()
		t.Error("another program's socket was replaced")
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("another program's socket: %v", err)
	} else {
		c.Close()
	}
	stream.Close()

	left, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	ln, err := listenJoins(path)
	if err != nil {
		t.Fatalf("what a dead edge has left: %v", err)
	}
	ln.Close()
}

// TestJoinsWithoutDescriptors: an edge that has no descriptor for a launcher at one time takes it later.
func TestJoinsWithoutDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.sock")
	ln, err := listenJoins(path)
	if err != nil {
		t.Fatal(err)
	}
	j := newJoins(nil)
	var serving sync.WaitGroup
	serving.Go(func() { j.serve(context.Background(), ln) })
	defer serving.Wait()
	defer ln.Close()

	c, err := connectWithout(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(joinTimeout))
	if err := sendJSON(c, joinRequest{"../x", "app", "s"}); err != nil {
		t.Fatal(err)
	}
	var a joinAnswer
	if err := receiveJSON(c, &a); err != nil || a.Error == "" {
		t.Errorf("the edge's answer: %+v, %v", a, err)
	}
}

// connectWithout connects to a socket while this process may open no more files, for as long as it takes to see that.
func connectWithout(path string) (*net.UnixConn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "launcher")
	defer f.Close()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		return nil, err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		return nil, err
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	time.Sleep(4 * acceptAgain)
	if err := errors.Join(err, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was)); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}
