//go:build linux && !client

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endPatience is how long weir tproxy down waits for the one that is up.
const endPatience = 20 * time.Second

// hostLock is held by the one weir that is up on a link: an abstract UNIX socket, which the kernel takes away with the
// process, and which belongs to the network namespace as the link does. Who may end that weir does so by connecting.
type hostLock struct {
	ln    *net.UnixListener
	ended chan struct{} // closed when somebody wants weir to end

	mu    sync.Mutex
	conns []*net.UnixConn // who wants it: not closed before the process ends
}

func lockAddress(link string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "@weir-tproxy/" + link}
}

func lockHost(link string) (*hostLock, error) {
	ln, err := net.ListenUnix("unix", lockAddress(link))
	if errors.Is(err, syscall.EADDRINUSE) {
		by := ""
		if c, err := net.DialUnix("unix", nil, lockAddress(link)); err == nil {
			if peer, err := peerOf(c); err == nil {
				by = fmt.Sprintf(" (process %d)", peer.Pid)
				if !trusted(peer) {
					by = fmt.Sprintf(", or process %d of user %d pretends that", peer.Pid, peer.Uid)
				}
			}
			c.Close()
		}
		return nil, hint(fmt.Errorf("weir tproxy is up on %s already%s", link, by), "weir tproxy down --bridge %s", link)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", link, err)
	}
	l := &hostLock{ln: ln, ended: make(chan struct{})}
	go l.listen()
	return l, nil
}

// numbersPatience is how long one weir waits for others to take theirs, numbersPause how long between two looks.
const (
	numbersPatience = 5 * time.Second
	numbersPause    = 20 * time.Millisecond
)

// lockNumbers waits until no other weir of this network namespace is choosing numbers that nobody uses: two that are started
// at once, before two bridges, would choose the same. Anybody may take the name of the socket; after numbersPatience it goes
// on without, and the kernel refuses what is taken.
func lockNumbers() (unlock func()) {
	for until := time.Now().Add(numbersPatience); time.Now().Before(until); time.Sleep(numbersPause) {
		if ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@weir-tproxy"}); err == nil {
			return func() { ln.Close() }
		}
	}
	return func() {}
}

// endRequest is what somebody says who wants weir to end.
const endRequest = "end\n"

// listen waits for one request. The connection stays open as long as the process: its end says that weir has ended.
func (l *hostLock) listen() {
	for {
		c, err := l.ln.AcceptUnix()
		if err != nil {
			return
		}
		peer, err := peerOf(c)
		if err != nil || !trusted(peer) {
			c.Close()
			continue
		}
		go func() {
			b := make([]byte, len(endRequest))
			c.SetReadDeadline(time.Now().Add(time.Second))
			if n, _ := c.Read(b); string(b[:n]) != endRequest {
				c.Close()
				return
			}
			l.end(c)
		}()
	}
}

// end has weir end, and c told when it has: two may want it at once.
func (l *hostLock) end(c *net.UnixConn) {
	l.ln.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns = append(l.conns, c); len(l.conns) == 1 {
		close(l.ended)
	}
}

func (l *hostLock) close() { l.ln.Close() }

// endHost ends the weir that is up on the link, and returns its process id; 0 when there is none.
func endHost(link string) (pid int, err error) {
	c, err := net.DialUnix("unix", nil, lockAddress(link))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find weir tproxy on %s: %w", link, err)
	}
	defer c.Close()
	peer, err := peerOf(c)
	if err != nil {
		return 0, fmt.Errorf("find weir tproxy on %s: %w", link, err)
	}
	if !trusted(peer) { // anybody can take the name of the socket; that is no weir of root's
		return 0, nil
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return 0, nil // anybody may have a socket of that name; it is no weir that holds rules
	}
	if _, err := c.Write([]byte(endRequest)); err != nil {
		return 0, fmt.Errorf("end process %d: %w", peer.Pid, err)
	}
	c.SetReadDeadline(time.Now().Add(endPatience))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, hint(fmt.Errorf("process %d does not end", peer.Pid), "kill %d", peer.Pid)
	}
	return int(peer.Pid), nil
}

// hostIsDown reports whether no weir is up on the link.
func hostIsDown(link string) bool {
	c, err := net.DialUnix("unix", nil, lockAddress(link))
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// trusted reports whether the peer is root's or our own user's.
func trusted(peer *unix.Ucred) bool { return peer.Uid == 0 || int(peer.Uid) == os.Geteuid() }

// peerOf says which process is at the other end.
func peerOf(c *net.UnixConn) (peer *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return nil, cerr
	}
	return peer, err
}
