package relay

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSpliceUrgent: what comes behind urgent data is not left in the socket. splice(2) stops at the urgent octet and says
// that there is nothing to read, and no edge of the poller tells of what is there already; behind the end of the stream it
// says that this is the end.
func TestSpliceUrgent(t *testing.T) {
	for _, inline := range []int{0, 1} {
		for _, ends := range []bool{false, true} {
			t.Run(fmt.Sprintf("inline %d, ends %t", inline, ends), func(t *testing.T) { urgent(t, inline, ends) })
		}
	}
}

func urgent(t *testing.T, inline int, ends bool) {
	const before, behind = 8 << 20, 5000
	program, client := tcpPair(t)
	upstream, server := tcpPair(t)
	setInline(t, client, inline)
	done := make(chan Stats, 1)
	go func() { done <- Pipe(t.Context(), client, upstream, Options{}) }()
	go func() {
		program.Write(make([]byte, before))
		sendUrgent(t, program, '!')
		program.Write(bytes.Repeat([]byte("x"), behind))
		if ends {
			program.CloseWrite()
		}
	}()
	// Nobody reads until all of it is there, or as much as fits.
	time.Sleep(50 * time.Millisecond)
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := io.ReadFull(server, make([]byte, before+behind+inline))
	if err != nil {
		t.Errorf("%d octets of %d, %v", n, before+behind+inline, err)
	}
	program.CloseWrite()
	server.CloseWrite()
	if st := <-done; st.Cause != Fin || st.Sent != before+behind+int64(inline) {
		t.Errorf("stats %+v", st)
	}
}

// setInline says whether urgent data is part of the stream.
func setInline(t *testing.T, c *net.TCPConn, inline int) {
	raw, err := c.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, inline) })
	}
	if err != nil {
		t.Fatal(err)
	}
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
