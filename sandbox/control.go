//go:build linux

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// The launcher and init talk over a SOCK_SEQPACKET pair: one JSON message per packet, descriptors beside it. For init
// the pair is the lifeline too: when the launcher's end is gone, so is the sandbox.
//
//	init -> launcher   opReady (link, listeners ...) or opFailed; after opGo opStarted or opFailed; then opExit
//	launcher -> init   opGo, opSignal
type message struct {
	Op      string
	Link    LinkInfo `json:",omitzero"` // opReady
	Diag    bool     `json:",omitempty"`
	NetNS   bool     `json:",omitempty"` // the network namespace comes along
	Held    []string `json:",omitempty"` // opReady: the walls that CMD is going to have
	Ports   []uint16 `json:",omitempty"` // opReady: the port of each listener that follows
	Sockets []string `json:",omitempty"` // opReady: the kind of each of the door's sockets that follow them
	Signal  int      `json:",omitempty"` // opSignal; opExit: the signal that ended CMD
	Code    int      `json:",omitempty"` // opExit
	Failure *failure `json:",omitempty"` // opFailed
}

const (
	opReady   = "ready"
	opMapped  = "mapped" // launcher -> init: the user namespace has its ids (profile engine)
	opLink    = "link"   // init -> launcher: the descriptors, before opReady (profile engine)
	opGo      = "go"
	opStarted = "started"
	opSignal  = "signal"
	opExit    = "exit"
	opFailed  = "failed"

	maxMessage = 64 << 10

	// maxDoorSockets is how many the tproxy door has: five of each family, and three.
	maxDoorSockets = 13
	maxFds         = 4 + 2*maxHostPorts
)

// failure carries an error over the process boundary.
type failure struct {
	Step, Path, Text   string
	Exec               string // name of CMD when this is an ExecError
	Errno              syscall.Errno
	NotFound, NotAllow bool
}

func newFailure(err error) *failure {
	f := &failure{Step: StepInit, Text: err.Error()}
	var setup *SetupError
	var ex *ExecError
	switch {
	case errors.As(err, &setup):
		f.Step, f.Path, f.Text = setup.Step, setup.Path, setup.Err.Error()
	case errors.As(err, &ex):
		f.Exec, f.Text = ex.Name, ex.Err.Error()
	}
	errors.As(err, &f.Errno)
	f.NotFound, f.NotAllow = errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrPermission)
	f.Text = f.Text[:min(len(f.Text), maxMessage/16)]
	return f
}

func (f *failure) err() error {
	cause := &remoteError{text: f.Text}
	switch {
	case f.NotFound:
		cause.cause = exec.ErrNotFound
	case f.Errno != 0:
		cause.cause = f.Errno
	case f.NotAllow:
		cause.cause = fs.ErrPermission
	}
	if f.Exec != "" {
		return &ExecError{Name: f.Exec, Err: cause}
	}
	return &SetupError{Step: f.Step, Path: f.Path, Err: cause}
}

// remoteError says what init said and unwraps to what programs test for.
type remoteError struct {
	text  string
	cause error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.cause }

// control is one end of the pair.
type control struct{ conn *net.UnixConn }

// newControl takes over fd.
func newControl(fd int) (*control, error) {
	f := os.NewFile(uintptr(fd), "control")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open control socket: not a unix socket")
	}
	return &control{u}, nil
}

// openControl opens init's end without taking the inherited descriptor over: there may be others to inherit it.
func openControl() (*control, error) {
	fd, err := unix.FcntlInt(controlFd, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, &SetupError{Step: StepInit, Path: "control socket", Err: err}
	}
	return newControl(fd)
}

// send writes m and copies of fds as one packet.
func (c *control) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Op, err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err = c.conn.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Op, err)
	}
	return nil
}

// receive blocks for the next packet; io.EOF when the other side is gone. The descriptors are the caller's.
func (c *control) receive() (message, []int, error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFds))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return message{}, nil, err
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	var m message
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		closeAll(fds)
		return message{}, nil, fmt.Errorf("decode message: %w", err)
	}
	return m, fds, nil
}

// hear is receive for messages without descriptors; the kernel drops those that come all the same. To close a file of
// another's making can take as long as they like.
func (c *control) hear() (message, error) {
	var m message
	buf := make([]byte, maxMessage)
	n, _, _, _, err := c.conn.ReadMsgUnix(buf, nil)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		return m, fmt.Errorf("decode message: %w", err)
	}
	return m, nil
}

func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var fds []int
	for i := range cmsgs {
		got, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("parse descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
