package websocket

import (
	"net"
	"sync"
	"time"
)

// corkedConn gathers what is written between cork and uncork. A client masks what it sends, which the library does four
// kilobytes at a time: each would be a TLS record and a system call.
type corkedConn struct {
	net.Conn

	mu     sync.Mutex
	corked bool
	held   []byte
}

func (c *corkedConn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork writes what was gathered.
func (c *corkedConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	if len(c.held) == 0 {
		return nil
	}
	c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Conn.Write(c.held)
	c.Conn.SetWriteDeadline(time.Time{})
	c.held = c.held[:0]
	return err
}

// Write writes at once, or keeps what is no more than a message and the control frames between two.
func (c *corkedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked && len(c.held)+len(p) <= 2*MaxMessage {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	if len(c.held) > 0 {
		_, err := c.Conn.Write(c.held)
		c.held = c.held[:0]
		if err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}
