//go:build linux && !client

package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// TestTwoWantTheEnd: two who run weir tproxy down at once end it once.
func TestTwoWantTheEnd(t *testing.T) {
	link := fmt.Sprintf("test%d", os.Getpid())
	l, err := lockHost(link)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	const many = 8
	var conns []*net.UnixConn
	for range many { // all are there before one of them speaks
		c, err := net.DialUnix("unix", nil, lockAddress(link))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	time.Sleep(50 * time.Millisecond) // and accepted
	var saying sync.WaitGroup
	for _, c := range conns {
		saying.Go(func() { c.Write([]byte(endRequest)) })
	}
	saying.Wait()
	select {
	case <-l.ended:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody has ended it")
	}
	for range 100 { // each of them is kept, to hear of the end of the process
		if l.told() == many {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("not all of %d are kept", many)
}

func (l *hostLock) told() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}
