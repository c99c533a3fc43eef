//go:build linux && !client

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The launcher and the data path of a sandbox talk over one socketpair. A message is a four-octet length (big endian), a
// JSON object of that many octets, and the descriptors that the object speaks of by position. The order of messages is
//
//	launcher                         data path
//	   | -- config, descriptors -----> |   everything it needs to know
//	   | <----------- ready or error - |   the stack is up, the resolver answers
//	   | -- installation is over ----> |   while CMD runs, if the app has install rules
//	   | -- finish, exit status -----> |   CMD has ended
//	   | <------------------ report -- |   every event is written, the process ends
//
// Either side that sees the other's end closed ends too: that is the lifeline behind PDEATHSIG.

// maxMessage bounds one message in octets. The largest is the report of a run with many destinations.
const maxMessage = 64 << 20

// maxControlFiles bounds the descriptors of one message; the kernel's own limit (SCM_MAX_FD) is 253.
const maxControlFiles = 200

// controlConn is one end of that socketpair. It is not safe for concurrent sends or concurrent receives.
type controlConn struct {
	c   *net.UnixConn
	max int // octets of one message
}

// newControlPair makes the two ends for messages of at most max octets; remote is the other process's, and to be closed here
// when that has it.
func newControlPair(max int) (local *controlConn, remote *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	remote = os.NewFile(uintptr(fds[1]), "control")
	local, err = openControl(os.NewFile(uintptr(fds[0]), "control"), max)
	if err != nil {
		remote.Close()
		return nil, nil, err
	}
	return local, remote, nil
}

// openControl takes over one end from an inherited file, which it closes.
func openControl(f *os.File, max int) (*controlConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open control socket: not a UNIX socket")
	}
	return &controlConn{u, max}, nil
}

func (c *controlConn) Close() error { return c.c.Close() }

// send writes v and files as one message. The files stay the caller's.
func (c *controlConn) send(v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode control message: %w", err)
	}
	if len(body) > c.max || len(files) > maxControlFiles {
		return fmt.Errorf("send control message: %d octets and %d files are too much", len(body), len(files))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := c.c.WriteMsgUnix(head, rights, nil); err != nil {
		return fmt.Errorf("send control message: %w", err)
	}
	if _, err := c.c.Write(body); err != nil {
		return fmt.Errorf("send control message: %w", err)
	}
	return nil
}

// receive reads one message into v and returns its files, which are the caller's and close-on-exec. io.EOF says that the
// other side has gone.
func (c *controlConn) receive(v any) ([]*os.File, error) {
	head := make([]byte, 4)
	oob := make([]byte, unix.CmsgSpace(maxControlFiles*4))
	n, oobn, _, _, err := c.c.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	files, err := controlFiles(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if err := c.receiveBody(head, n, v); err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

// ask sends v and reads one message without files into answer, all of it within the timeout.
func (c *controlConn) ask(v, answer any, timeout time.Duration) error {
	c.c.SetDeadline(time.Now().Add(timeout))
	defer c.c.SetDeadline(time.Time{})
	if err := c.send(v); err != nil {
		return err
	}
	files, err := c.receive(answer)
	closeAll(files)
	return err
}

func (c *controlConn) receiveBody(head []byte, have int, v any) error {
	if _, err := io.ReadFull(c.c, head[have:]); err != nil {
		return fmt.Errorf("receive control message: %w", err)
	}
	size := binary.BigEndian.Uint32(head)
	if size > uint32(c.max) {
		return fmt.Errorf("receive control message: %d octets are too much", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.c, body); err != nil {
		return fmt.Errorf("receive control message: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode control message: %w", err)
	}
	return nil
}

func controlFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("receive descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("control:%d", len(files))))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
