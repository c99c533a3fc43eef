package relay

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSpliceUrgent: what comes behind urgent data is not left in the socket. splice(2) stops at the urgent octet and says
// that there is nothing to read, and no edge of the poller tells of what is there already.
func TestSpliceUrgent(t *testing.T) {
	eachKind(t, Options{}, func(t *testing.T, r rig) {
		for _, dir := range []struct{ from, to *net.TCPConn }{{r.program, r.server}, {r.server, r.program}} {
			const before, behind = 8 << 20, 5000
			go func() {
				dir.from.Write(make([]byte, before))
				sendUrgent(t, dir.from, '!')
				dir.from.Write(bytes.Repeat([]byte("x"), behind))
			}()
			dir.to.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := io.ReadFull(dir.to, make([]byte, before+behind))
			if err != nil {
				t.Fatalf("%d octets of %d, %v", n, before+behind, err)
			}
		}
		r.program.CloseWrite()
		r.server.CloseWrite()
		if st := <-r.done; st.Cause != Fin {
			t.Errorf("stats %+v", st)
		}
	})
}

// sendUrgent sends an octet out of band. The receiver that does not ask for it never sees it.
func sendUrgent(t *testing.T, c *net.TCPConn, b byte) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	err = raw.Write(func(fd uintptr) bool {
		return unix.Send(int(fd), []byte{b}, unix.MSG_OOB) != unix.EAGAIN
	})
	if err != nil {
		t.Error(err)
	}
}
