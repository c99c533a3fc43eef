package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair is two ends of a kernel connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// plain hides what a TCP connection can do beyond a half-close, so that the general copy loop carries it.
type plain struct{ c *net.TCPConn }

func (p plain) Read(b []byte) (int, error)         { return p.c.Read(b) }
func (p plain) Write(b []byte) (int, error)        { return p.c.Write(b) }
func (p plain) Close() error                       { return p.c.Close() }
func (p plain) CloseWrite() error                  { return p.c.CloseWrite() }
func (p plain) SetLinger(sec int) error            { return p.c.SetLinger(sec) }
func (p plain) LocalAddr() net.Addr                { return p.c.LocalAddr() }
func (p plain) RemoteAddr() net.Addr               { return p.c.RemoteAddr() }
func (p plain) SetDeadline(t time.Time) error      { return p.c.SetDeadline(t) }
func (p plain) SetReadDeadline(t time.Time) error  { return p.c.SetReadDeadline(t) }
func (p plain) SetWriteDeadline(t time.Time) error { return p.c.SetWriteDeadline(t) }

// rig is a relay with its two peers: the program in the sandbox and the server.
type rig struct {
	program, server *net.TCPConn
	done            chan Stats
}

// kinds are the ways in which the relay's ends are kernel sockets or not.
var kinds = map[string]func(client, upstream *net.TCPConn) (net.Conn, net.Conn){
	"splice":  func(c, u *net.TCPConn) (net.Conn, net.Conn) { return c, u },
	"general": func(c, u *net.TCPConn) (net.Conn, net.Conn) { return plain{c}, plain{u} },
	"mixed":   func(c, u *net.TCPConn) (net.Conn, net.Conn) { return plain{c}, u },
}

func eachKind(t *testing.T, opts Options, f func(t *testing.T, r rig)) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			program, client := tcpPair(t)
			upstream, server := tcpPair(t)
			c, u := kind(client, upstream)
			r := rig{program: program, server: server, done: make(chan Stats, 1)}
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			go func() { r.done <- Pipe(ctx, c, u, opts) }()
			f(t, r)
		})
	}
}

func TestHalfCloseBothWays(t *testing.T) {
	for _, size := range []int{0, 1, smallBuffer, 3 << 20} {
		up, down := bytes.Repeat([]byte("up"), size), bytes.Repeat([]byte("dn"), size)
		eachKind(t, Options{}, func(t *testing.T, r rig) {
			go func() {
				r.program.Write(up)
				r.program.CloseWrite()
			}()
			if got, err := io.ReadAll(r.server); err != nil || !bytes.Equal(got, up) {
				t.Errorf("server got %d bytes, %v", len(got), err)
			}
			go func() {
				r.server.Write(down)
				r.server.CloseWrite()
			}()
			if got, err := io.ReadAll(r.program); err != nil || !bytes.Equal(got, down) {
				t.Errorf("program got %d bytes, %v", len(got), err)
			}
			want := Stats{Sent: int64(len(up)), Received: int64(len(down)), Cause: Fin}
			if st := <-r.done; st != want {
				t.Errorf("stats %+v, want %+v", st, want)
			}
		})
	}
}

func TestResetIsCarried(t *testing.T) {
	eachKind(t, Options{}, func(t *testing.T, r rig) {
		r.server.SetLinger(0)
		r.server.Close()
		if _, err := r.program.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("program: %v", err)
		}
		if st := <-r.done; st.Cause != Rst {
			t.Errorf("stats %+v", st)
		}
	})
	eachKind(t, Options{}, func(t *testing.T, r rig) {
		r.program.SetLinger(0)
		r.program.Close()
		if _, err := r.server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("server: %v", err)
		}
		if st := <-r.done; st.Cause != Rst {
			t.Errorf("stats %+v", st)
		}
	})
}

// Bytes held before the relay began are the first to leave.
func TestFirstUp(t *testing.T) {
	eachKind(t, Options{FirstUp: []byte("hello ")}, func(t *testing.T, r rig) {
		r.program.Write([]byte("world"))
		r.program.CloseWrite()
		if got, _ := io.ReadAll(r.server); string(got) != "hello world" {
			t.Errorf("server got %q", got)
		}
		r.server.Close()
		if st := <-r.done; st.Sent != 11 {
			t.Errorf("stats %+v", st)
		}
	})
}

// The held bytes are given back while the flow goes on.
func TestFirstUpDone(t *testing.T) {
	released := make(chan struct{})
	eachKind(t, Options{FirstUp: []byte("hello"), FirstUpDone: func() { released <- struct{}{} }}, func(t *testing.T, r rig) {
		io.ReadFull(r.server, make([]byte, 5))
		<-released
		r.program.CloseWrite()
		r.server.Close()
		if st := <-r.done; st.Sent != 5 || st.Cause != Fin {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestWatchUp(t *testing.T) {
	t.Run("until done", func(t *testing.T) {
		var seen bytes.Buffer
		watch := func(b []byte) error {
			if seen.Write(b); seen.Len() >= 5 {
				return ErrDoneWatching
			}
			return nil
		}
		program, client := tcpPair(t)
		upstream, server := tcpPair(t)
		done := make(chan Stats, 1)
		go func() { done <- Pipe(t.Context(), client, upstream, Options{FirstUp: []byte("x"), WatchUp: watch}) }()
		program.Write([]byte("hello"))
		io.ReadFull(server, make([]byte, 6))
		program.Write([]byte(" unseen"))
		program.CloseWrite()
		if rest, _ := io.ReadAll(server); string(rest) != " unseen" || seen.String() != "hello" {
			t.Errorf("server got %q, seen %q", rest, seen.String())
		}
		server.Close()
		if st := <-done; st.Cause != Fin || st.Sent != 13 {
			t.Errorf("stats %+v", st)
		}
	})
	lie := errors.New("a lie")
	eachKind(t, Options{WatchUp: func([]byte) error { return lie }}, func(t *testing.T, r rig) {
		r.program.Write([]byte("secret"))
		if n, err := r.server.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("server read %d bytes, %v", n, err)
		}
		if _, err := r.program.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("program: %v", err)
		}
		if st := <-r.done; st.Cause != Policy || !errors.Is(st.Up, lie) || st.Sent != 0 {
			t.Errorf("stats %+v", st)
		}
	})
	eachKind(t, Options{WatchUp: func([]byte) error { return nil }}, func(t *testing.T, r rig) {
		r.program.CloseWrite()
		if got, err := io.ReadAll(r.server); len(got) != 0 || err != nil {
			t.Errorf("server: %q, %v", got, err)
		}
		r.server.Close()
		if st := <-r.done; st.Cause != Fin {
			t.Errorf("stats %+v", st)
		}
	})
}

// The server speaks first, and is heard, while nothing of the client has left.
func TestDownWithoutUp(t *testing.T) {
	program, client := tcpPair(t)
	upstream, server := tcpPair(t)
	r := New(t.Context(), client, upstream)
	r.Start()
	server.Write([]byte("220 ready"))
	if got := make([]byte, 9); true {
		if _, err := io.ReadFull(program, got); err != nil || string(got) != "220 ready" {
			t.Errorf("program got %q, %v", got, err)
		}
	}
	r.Reset(Policy)
	r.Reset(Exit)
	if st := r.Wait(); st.Cause != Policy || st.Received != 9 || st.Sent != 0 {
		t.Errorf("stats %+v", st)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server: %v", err)
	}
}

func TestContextEndsBoth(t *testing.T) {
	program, client := tcpPair(t)
	upstream, server := tcpPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan Stats, 1)
	go func() { done <- Pipe(ctx, client, upstream, Options{}) }()
	program.Write([]byte("x"))
	io.ReadFull(server, make([]byte, 1))
	cancel()
	if st := <-done; st.Cause != Exit || st.Sent != 1 {
		t.Errorf("stats %+v", st)
	}
	for _, c := range []net.Conn{program, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
	}
}

// There is no idle limit, and the counters can be read while the flow lives.
func TestIdleForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		program, client := net.Pipe()
		upstream, server := net.Pipe()
		r := New(t.Context(), client, upstream)
		r.Start()
		done := make(chan Stats, 1)
		go func() {
			r.Up(Options{})
			done <- r.Wait()
		}()
		program.Write([]byte("hi"))
		io.ReadFull(server, make([]byte, 2))
		time.Sleep(1000 * time.Hour)
		server.Write([]byte("hello"))
		io.ReadFull(program, make([]byte, 5))
		synctest.Wait()
		if r.Sent() != 2 || r.Received() != 5 {
			t.Errorf("sent %d, received %d", r.Sent(), r.Received())
		}
		program.Close() // a pipe has no half-close: the server's end is closed whole
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("server: %v", err)
		}
		if st := <-done; st.Cause != Fin || st.Up != nil || st.Down != nil {
			t.Errorf("stats %+v", st)
		}
	})
}

// A flow is two goroutines, and holds no more than two small buffers while it is idle.
func TestIdleCost(t *testing.T) {
	const flows = 200
	before := runtime.NumGoroutine()
	done := make(chan Stats, flows)
	var programs []net.Conn
	for range flows {
		program, client := net.Pipe()
		upstream, server := net.Pipe()
		go func() { done <- Pipe(context.Background(), client, upstream, Options{}) }()
		program.Write([]byte("x"))
		io.ReadFull(server, make([]byte, 1))
		programs = append(programs, program)
	}
	if got := runtime.NumGoroutine() - before; got > 2*flows {
		t.Errorf("%d goroutines for %d flows", got, flows)
	}
	for _, p := range programs {
		p.Close()
		<-done
	}
}

func TestCauses(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Cause
	}{
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, Rst},
		{syscall.EPIPE, Rst},
		{&net.OpError{Op: "read", Err: syscall.ETIMEDOUT}, Timeout},
		{context.DeadlineExceeded, Timeout},
		{context.Canceled, Exit},
		{io.ErrUnexpectedEOF, Error},
	} {
		if got := causeOf(tt.err); got != tt.want {
			t.Errorf("causeOf(%v) = %q, want %q", tt.err, got, tt.want)
		}
	}
}
