//go:build linux && !client

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideDialer opens connections to the sandbox's loopback through its PID 1 (see sandbox.Sandbox.DialSocket). There is
// one for the one socket: answers come in any order, and a slow port must not hold up the others.
type insideDialer struct {
	conn *net.UnixConn

	mu      sync.Mutex
	waiting map[uint16][]chan<- dialAnswer // who asked for a port, in the order of asking
	failed  error                          // why there are no answers any more
}

// dialAnswer is what PID 1 said of one question.
type dialAnswer struct {
	conn net.Conn
	err  error
}

// newInsideDialer takes over the socket. It reads until the sandbox has ended.
func newInsideDialer(f *os.File) (*insideDialer, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open dial socket: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open dial socket: not a UNIX socket")
	}
	i := &insideDialer{conn: conn, waiting: make(map[uint16][]chan<- dialAnswer)}
	go i.receive()
	return i, nil
}

// insideDialer is the data path's one, opened when it is first needed.
func (d *dataPath) insideDialer() (*insideDialer, error) {
	if d.inside == nil {
		f := d.file("dial")
		if f == nil {
			return nil, fmt.Errorf("open dial socket: %w", syscall.ENOTSUP)
		}
		inside, err := newInsideDialer(f)
		if err != nil {
			return nil, err
		}
		d.inside = inside
	}
	return d.inside, nil
}

// dial connects to the port inside. PID 1 bounds how long it takes. The connection is the caller's.
func (i *insideDialer) dial(port uint16) (net.Conn, error) {
	answer := make(chan dialAnswer, 1)
	if err := i.ask(port, answer); err != nil {
		return nil, fmt.Errorf("ask sandbox for port %d: %w", port, err)
	}
	a := <-answer
	if a.err != nil {
		return nil, fmt.Errorf("connect inside to port %d: %w", port, a.err)
	}
	return a.conn, nil
}

func (i *insideDialer) ask(port uint16, answer chan<- dialAnswer) error {
	i.mu.Lock()
	failed := i.failed
	if failed == nil {
		i.waiting[port] = append(i.waiting[port], answer)
	}
	i.mu.Unlock()
	if failed != nil {
		return failed
	}
	if _, err := i.conn.Write(binary.BigEndian.AppendUint16(nil, port)); err != nil {
		i.fail(err) // nothing is lost: where the sandbox cannot be asked it is gone
	}
	return nil
}

// receive hands each answer to the first who asked for that port: connections to the same port are alike.
func (i *insideDialer) receive() {
	defer i.conn.Close()
	buf, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := i.conn.ReadMsgUnix(buf, rights)
		if err != nil || n != len(buf) {
			i.fail(errors.Join(err, net.ErrClosed))
			return
		}
		port := binary.BigEndian.Uint16(buf)
		a := readDialAnswer(syscall.Errno(binary.BigEndian.Uint16(buf[2:])), rights[:oobn])
		if to := i.next(port); to != nil {
			to <- a
		} else if a.conn != nil {
			a.conn.Close()
		}
	}
}

func (i *insideDialer) next(port uint16) chan<- dialAnswer {
	i.mu.Lock()
	defer i.mu.Unlock()
	list := i.waiting[port]
	if len(list) == 0 {
		return nil
	}
	i.waiting[port] = list[1:]
	return list[0]
}

// fail answers everybody who waits, and those to come.
func (i *insideDialer) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failed == nil {
		i.failed = err
	}
	for _, list := range i.waiting {
		for _, to := range list {
			to <- dialAnswer{err: err}
		}
	}
	clear(i.waiting)
}

func readDialAnswer(errno syscall.Errno, rights []byte) dialAnswer {
	files, err := controlFiles(rights)
	if err != nil {
		return dialAnswer{err: err}
	}
	defer closeAll(files)
	switch {
	case errno != 0:
		return dialAnswer{err: errno}
	case len(files) != 1:
		return dialAnswer{err: errors.New("no descriptor came with the answer")}
	}
	c, err := net.FileConn(files[0])
	return dialAnswer{c, err}
}
