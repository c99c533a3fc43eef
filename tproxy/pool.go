//go:build linux

package tproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tproxy/rules"
)

// Pool hands out sockets for UDP flows. They have to be opened in the sandbox's namespace, by a process that is there; the
// pool asks for some at a time, and lives as long as its process.
type Pool struct {
	conn *net.UnixConn

	mu    sync.Mutex
	spare [2][]int // IPv4, IPv6
}

// NewPool takes over the socket to that process (rules.KindPool).
func NewPool(f *os.File) (*Pool, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open socket pool: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open socket pool: not a unix socket")
	}
	return &Pool{conn: u}, nil
}

// Socket returns one, as [Config.Socket] wants it.
func (p *Pool) Socket(ipv6 bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, family := 0, byte(4)
	if ipv6 {
		i, family = 1, 6
	}
	if len(p.spare[i]) == 0 {
		fds, err := p.ask(family)
		if err != nil {
			return -1, fmt.Errorf("ask for sockets: %w", err)
		}
		p.spare[i] = fds
	}
	last := len(p.spare[i]) - 1
	fd := p.spare[i][last]
	p.spare[i] = p.spare[i][:last]
	return fd, nil
}

// ask puts one request. The answers come in the order of the requests, so there is one at a time.
func (p *Pool) ask(family byte) ([]int, error) {
	if _, err := p.conn.Write([]byte{family, rules.MaxPool}); err != nil {
		return nil, err
	}
	b, oob := make([]byte, 2), make([]byte, unix.CmsgSpace(4*rules.MaxPool))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		got, _ := unix.ParseUnixRights(&messages[i])
		fds = append(fds, got...)
	}
	if errno := syscall.Errno(uint16(b[0])<<8 | uint16(b[1])); n == 2 && errno != 0 {
		err = errno
	}
	if err == nil && len(fds) == 0 {
		err = errors.New("none came")
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, err
	}
	return fds, nil
}
