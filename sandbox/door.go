//go:build linux

package sandbox

import (
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tproxy/rules"
)

// What the tproxy door has of a sandbox: there is no link then, but sockets of the sandbox's network namespace.

// Where the door is. The program may connect there; that is a flow to the gateway's address like any other.
const (
	doorPort  = 1077
	doorQueue = 1077
	doorGroup = 1077
)

// openDoor sets the namespace up for the tproxy door.
func (n *network) openDoor(spec Spec) error {
	inside := rules.Inside{
		Addr4: spec.Addr4, Gateway4: spec.Gateway4, Addr6: spec.Addr6, Gateway6: spec.Gateway6, Port: doorPort,
		Beside: spec.Door == DoorBoth, Hold: true, Queue: doorQueue, LogGroup: doorGroup,
	}
	sockets, err := inside.Open()
	if err != nil {
		return &SetupError{Step: StepDoor, Err: err}
	}
	n.sockets = sockets
	fd, err := serveFlowSockets()
	if err != nil {
		return err
	}
	n.sockets = append(n.sockets, rules.Socket{Kind: rules.KindPool, FD: fd})
	return nil
}

// DoorSockets returns the sockets of the tproxy door by their kind (package tproxy/rules), nil without that door. The
// caller owns them. A second call returns nil.
func (s *Sandbox) DoorSockets() map[string][]*os.File { return take(s, &s.sockets) }

// serveFlowSockets answers requests for sockets of UDP flows until the other end is closed, which it returns. A request is
// two octets, the family (4 or 6) and how many; an answer is the errno in two octets, big-endian, with the sockets as
// SCM_RIGHTS when it is 0.
func serveFlowSockets() (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, &SetupError{Step: StepInit, Path: "flow sockets", Err: err}
	}
	ours, err := newControl(pair[0])
	if err != nil {
		unix.Close(pair[1])
		return -1, &SetupError{Step: StepInit, Path: "flow sockets", Err: err}
	}
	go answerFlowSockets(ours.conn)
	return pair[1], nil
}

func answerFlowSockets(c *net.UnixConn) {
	defer c.Close()
	var request [3]byte
	for {
		n, err := c.Read(request[:])
		if err != nil {
			return
		}
		if n != 2 {
			continue
		}
		var fds []int
		for range min(int(request[1]), rules.MaxPool) {
			var fd int
			if fd, err = rules.FlowSocket(request[0] == 6); err != nil {
				break
			}
			fds = append(fds, fd)
		}
		answer := []byte{0, 0}
		if len(fds) == 0 {
			errno := errnoOf(err)
			c.Write([]byte{byte(errno >> 8), byte(errno)})
			continue
		}
		c.WriteMsgUnix(answer, unix.UnixRights(fds...), nil)
		closeAll(fds)
	}
}
