package relay

import (
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what a pipe may hold, in bytes, where the kernel gives so much: it bounds pipes for each user, and then gives
	// a page.
	pipeSize = 1 << 20

	// pipesKept is how many empty pipes wait for their next use.
	pipesKept = 8
)

// pipe is a kernel buffer of pages.
type pipe struct{ r, w int }

// pipes are those that nobody uses.
var pipes struct {
	mu   sync.Mutex
	free []*pipe
}

// takePipe returns an empty pipe, nil when there is none to be had.
func takePipe() *pipe {
	pipes.mu.Lock()
	if last := len(pipes.free) - 1; last >= 0 {
		p := pipes.free[last]
		pipes.free = pipes.free[:last]
		pipes.mu.Unlock()
		return p
	}
	pipes.mu.Unlock()
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{fds[0], fds[1]}
}

// giveBack keeps an empty pipe for the next one.
func (p *pipe) giveBack() {
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	if len(pipes.free) >= pipesKept {
		p.close()
		return
	}
	pipes.free = append(pipes.free, p)
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}
