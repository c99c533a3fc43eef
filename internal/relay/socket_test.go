//go:build linux

package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// errGone is how a connection fails whose tunnel has gone.
type errGone struct{}

func (errGone) Error() string { return "tunnel lost" }
func (errGone) Lost() bool    { return true }

// handed is a flow that another process carries on: its bytes are in a UNIX socket, what their end means is told elsewhere.
type handed struct {
	*net.UnixConn
	meaning error // of an end, nil for the end of the stream
}

func (h *handed) Ended(err error) error {
	if h.meaning != nil {
		return h.meaning
	}
	return err
}

// handedPair is such a connection and its other end.
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

// TestHandedSplices: a flow that goes on in another process takes the short way between the sockets, and loses nothing.
func TestHandedSplices(t *testing.T) {
	program, client := tcpPair(t)
	upstream, server := handedPair(t, nil)
	if newSplicer(upstream, client, nil) == nil || newSplicer(client, upstream, nil) == nil {
		t.Fatal("it does not")
	}
	done := make(chan Stats, 1)
	go func() { done <- Pipe(t.Context(), client, upstream, Options{FirstUp: []byte("first ")}) }()
	up, down := bytes.Repeat([]byte("up"), 3<<20), bytes.Repeat([]byte("dn"), 3<<20)
	go func() {
		program.Write(up)
		program.CloseWrite()
	}()
	go func() {
		server.Write(down)
		server.CloseWrite()
	}()
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(server)
		got <- b
	}()
	if b, err := io.ReadAll(program); err != nil || !bytes.Equal(b, down) {
		t.Errorf("program got %d bytes, %v", len(b), err)
	}
	if b := <-got; !bytes.Equal(b, append([]byte("first "), up...)) {
		t.Errorf("server got %d bytes", len(b))
	}
	if st, want := <-done, (Stats{Sent: int64(len(up)) + 6, Received: int64(len(down)), Cause: Fin}); st != want {
		t.Errorf("stats %+v, want %+v", st, want)
	}
}

// TestHandedEnds: the end of the socket is not the end of the stream where the connection says so.
func TestHandedEnds(t *testing.T) {
	for name, c := range map[string]struct {
		meaning error
		cause   Cause
	}{
		"lost":   {errGone{}, TunnelLost},
		"reset":  {syscall.ECONNRESET, Rst},
		"broken": {errors.New("denied by the client"), Error},
	} {
		t.Run(name, func(t *testing.T) {
			program, client := tcpPair(t)
			upstream, server := handedPair(t, c.meaning)
			done := make(chan Stats, 1)
			go func() { done <- Pipe(t.Context(), client, upstream, Options{}) }()
			server.Write([]byte("half an answer"))
			io.ReadFull(program, make([]byte, 14))
			server.Close()
			if _, err := program.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("program: %v", err)
			}
			if st := <-done; st.Cause != c.cause || !errors.Is(st.Down, c.meaning) {
				t.Errorf("stats %+v", st)
			}
		})
	}
}
