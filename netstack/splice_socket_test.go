package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handed is a flow that another process carries on: a UNIX socket, whose end means what the connection says.
type handed struct {
	*net.UnixConn
	meaning error
}

func (h *handed) Ended(err error) error {
	if h.meaning != nil {
		return h.meaning
	}
	return err
}

func handedPair(t *testing.T, meaning error) (*handed, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "flow")
		c, err := net.FileConn(f)
		if f.Close(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return &handed{ends[0], meaning}, ends[1]
}

// TestSpliceHanded: a flow that goes on in another process takes the short way, too, and its end is the connection's word.
func TestSpliceHanded(t *testing.T) {
	gone := errors.New("tunnel lost")
	for name, meaning := range map[string]error{"an end": nil, "the tunnel has gone": gone} {
		t.Run(name, func(t *testing.T) {
			accepted, guest := acceptedPair(t)
			c := accepted.(*tcpConn)
			ours, theirs := handedPair(t, meaning)
			if hostSocket(ours) == nil {
				t.Fatal("it does not take the short way")
			}
			up := bytes.Repeat([]byte("up"), 1<<20)
			upDone, downDone := make(chan error, 1), make(chan error, 1)
			go func() { _, err := c.WriteTo(ours); ours.CloseWrite(); upDone <- err }()
			go func() { _, err := c.ReadFrom(ours); downDone <- err }()
			guest.SetDeadline(time.Now().Add(patience))
			go func() { guest.Write(up); guest.(halfCloser).CloseWrite() }()
			if got, err := io.ReadAll(theirs); err != nil || !bytes.Equal(got, up) {
				t.Errorf("%d octets came up, %v", len(got), err)
			}
			if err := <-upDone; err != nil {
				t.Errorf("up: %v", err)
			}
			theirs.Write([]byte("down"))
			b := make([]byte, 4)
			if _, err := io.ReadFull(guest, b); err != nil || string(b) != "down" {
				t.Errorf("%q came down, %v", b, err)
			}
			theirs.Close()
			if err := <-downDone; !errors.Is(err, meaning) {
				t.Errorf("down: %v, want %v", err, meaning)
			}
		})
	}
}
