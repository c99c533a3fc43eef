//go:build linux

package handoff

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPatience is how long the other process may leave its control socket full before it is given up.
const DefaultPatience = 5 * time.Second

// control is one end of a control socket. Sends may be concurrent, receives not.
type control struct {
	c        *net.UnixConn
	patience time.Duration

	sending sync.Mutex
	out     []byte // of the message being sent
}

// send writes a message and, unless fd is negative, hands that descriptor over; it stays open here. An error means that the
// other side has gone, or does not read.
func (c *control) send(m *message, fd int) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.out = m.encode(c.out[:0])
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	c.c.SetWriteDeadline(time.Now().Add(c.patience))
	_, _, err := c.c.WriteMsgUnix(c.out, rights, nil)
	if cap(c.out) > keptBuffer {
		c.out = nil
	}
	if err != nil {
		return fmt.Errorf("send %d to %s: %w", m.kind, "the other end of the handoff", err)
	}
	return nil
}

// keptBuffer is how much of a send buffer is kept for the next message, in octets.
const keptBuffer = 4 << 10

// receive reads a message into b, whose body lies there. The file is the descriptor that came along, nil where there was
// none; it is the caller's. Without rights descriptors are thrown away by the kernel.
func (c *control) receive(b, rights []byte) (m message, f *os.File, err error) {
	n, oob, flags, _, err := c.c.ReadMsgUnix(b, rights)
	if err != nil {
		return m, nil, err
	}
	if n == 0 {
		return m, nil, io.EOF
	}
	if oob > 0 {
		if f, err = oneFile(rights[:oob]); err != nil {
			return m, nil, err
		}
	}
	if flags&unix.MSG_TRUNC != 0 {
		err = errMalformed
	} else {
		m, err = decode(b[:n])
	}
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return m, f, err
}

// oneFile returns the single descriptor of a control message of the socket layer.
func oneFile(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errMalformed, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, errors.Join(errMalformed, err)
	}
	return os.NewFile(uintptr(fds[0]), "handoff"), nil
}

// unixConn makes a connection of a descriptor, which it takes over.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open handoff socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open handoff socket: not a UNIX socket")
	}
	return u, nil
}
