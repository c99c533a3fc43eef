//go:build linux

package sandbox

import (
	"errors"
	"os"
	"syscall"
)

// Sandbox is one running instance. Its methods may be called from any goroutine.
type Sandbox struct{}

// ExitStatus is how CMD ended: by exit with Code, or by Signal (then Code is 0).
type ExitStatus struct {
	Code   int
	Signal syscall.Signal
}

// Start makes the namespaces, the link, the addresses and the mounts. CMD is not started: see Release.
// On error nothing is left behind; set-up failures are *SetupError.
func Start(spec Spec) (*Sandbox, error) { return nil, errors.ErrUnsupported }

// Link returns the host's end of the link. The caller owns the file and closes it; when its last copy is closed the
// sandbox has no network. A second call returns nil.
func (s *Sandbox) Link() (*os.File, LinkInfo) { return nil, LinkInfo{} }

// HostPortListeners returns the listening TCP sockets inside, by port. The caller owns them. A second call returns nil.
func (s *Sandbox) HostPortListeners() map[uint16][]*os.File { return nil }

// DialSocket returns a SOCK_SEQPACKET socket through which connections to the sandbox's loopback are opened.
// A request is the port in 2 bytes, big-endian; an answer is the port and an errno, 2 bytes each, big-endian, with the
// connected socket as SCM_RIGHTS when the errno is 0. Answers may come in another order than requests.
// The caller owns the file. A second call returns nil.
func (s *Sandbox) DialSocket() *os.File { return nil }

// DiagSocket returns a NETLINK_SOCK_DIAG socket of the sandbox's network namespace, nil if the kernel has none.
// The caller owns the file. A second call returns nil.
func (s *Sandbox) DiagSocket() *os.File { return nil }

// InitPID is the pid of the sandbox's PID 1 as the caller sees it.
func (s *Sandbox) InitPID() int { return 0 }

// Release executes CMD. It returns when CMD runs, or with an *ExecError or *SetupError when it cannot. Once only.
func (s *Sandbox) Release() error { return errors.ErrUnsupported }

// Signal forwards a signal to CMD.
func (s *Sandbox) Signal(sig os.Signal) error { return errors.ErrUnsupported }

// Wait blocks until CMD has ended and with it everything in the sandbox. It may be called more than once.
func (s *Sandbox) Wait() (ExitStatus, error) { return ExitStatus{}, errors.ErrUnsupported }

// Close kills everything in the sandbox, waits until it is gone and closes the files that were not asked for.
// It is idempotent.
func (s *Sandbox) Close() error { return nil }
