//go:build linux

package handoff

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tunnel"
)

// Buffers of the edge, in octets. While a flow is idle it holds the small one for what may come from the client, and none for
// what may come from the data path.
const (
	smallBuffer = 2 << 10
	largeBuffer = 64 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// streamFlow carries a TCP flow between the data path's socket and the client's stream.
type streamFlow struct {
	s      *server
	id     uint64
	stream tunnel.Stream
	sock   *net.UnixConn // nil before start

	told chan struct{} // closed when the data path has said what the end of its octets means
	shut chan struct{} // closed when it reads no more, or nothing is to be read

	mu      sync.Mutex
	isTold  bool
	dropped bool // the data path has closed its end
	over    bool // both directions have ended before their time
}

func newStreamFlow(s *server, id uint64, stream tunnel.Stream) *streamFlow {
	return &streamFlow{s: s, id: id, stream: stream, told: make(chan struct{}), shut: make(chan struct{})}
}

func (f *streamFlow) socketType() int { return unix.SOCK_STREAM }
func (f *streamFlow) largest() int    { return 0 }

// start carries both directions.
func (f *streamFlow) start(sock *net.UnixConn) {
	f.mu.Lock()
	f.sock = sock
	over := f.over
	f.mu.Unlock()
	if over {
		sock.Close()
	}
	var both sync.WaitGroup
	both.Go(f.up)
	f.s.running.Go(func() {
		f.down()
		both.Wait()
		f.stream.Close()
		f.sock.Close()
		f.s.forget(f.id, kindOpenStream)
	})
}

// fin implements served.
func (f *streamFlow) fin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tell()
}

// tell lets up take the end of the data path's octets for a FIN.
func (f *streamFlow) tell() {
	if !f.isTold {
		f.isTold = true
		close(f.told)
	}
}

// closed implements served: nobody reads what the client sends, but what the data path wrote is delivered.
func (f *streamFlow) closed() {
	f.mu.Lock()
	if f.dropped || f.over {
		f.mu.Unlock()
		return
	}
	f.dropped = true
	close(f.shut)
	f.tell()
	f.mu.Unlock()
	f.stream.SetReadDeadline(time.Unix(1, 0))
	f.stream.SetWriteDeadline(time.Now().Add(lingerTimeout))
}

// lingerTimeout is how long a client may take to accept what a flow wrote that is closed already, as long as the kernel keeps
// such a socket.
const lingerTimeout = 60 * time.Second

// lost implements served.
func (f *streamFlow) lost() {
	f.mu.Lock()
	dropped := f.dropped
	f.mu.Unlock()
	if !dropped {
		f.abort(tunnel.Reset)
	}
}

// abort implements served. The data path is not told.
func (f *streamFlow) abort(code tunnel.Code) {
	if code == tunnel.OK || code > tunnel.Internal { // from who knows whom
		code = tunnel.Reset
	}
	f.end(&tunnel.Error{Code: code}, false)
}

// end ends both directions, and tells the data path why.
func (f *streamFlow) end(why *tunnel.Error, tell bool) {
	f.mu.Lock()
	if f.over {
		f.mu.Unlock()
		return
	}
	f.over = true
	if !f.dropped {
		close(f.shut)
	}
	f.tell()
	sock := f.sock
	f.mu.Unlock()
	if tell {
		f.s.tell(&message{kind: kindEnd, id: f.id, code: why.Code, text: why.Text})
	}
	f.stream.Abort(why.Code)
	if sock != nil {
		sock.Close()
	}
}

// fail ends the flow for what went wrong with the client's stream.
func (f *streamFlow) fail(err error) {
	e := errorOf(err)
	if e.Code == tunnel.OK {
		e = tunnel.Errorf(tunnel.Internal, "%s", e.Text)
	}
	f.end(e, true)
}

// up carries what the data path writes.
func (f *streamFlow) up() {
	raw, err := f.sock.SyscallConn()
	if err != nil {
		f.abort(tunnel.Internal)
		return
	}
	r := &socketReader{raw: raw}
	r.read = r.readOnce
	for {
		buf, n, err := r.next()
		if n > 0 {
			_, werr := f.stream.Write(buf[:n])
			largeBuffers.Put(buf)
			if werr != nil {
				f.fail(werr)
				return
			}
		}
		if err != nil {
			f.upEnded()
			return
		}
	}
}

// upEnded is the end of the data path's octets: a FIN only where it says so.
func (f *streamFlow) upEnded() {
	late := time.NewTimer(endTimeout)
	defer late.Stop()
	select {
	case <-f.told:
	case <-late.C:
		f.abort(tunnel.Reset)
		return
	}
	f.mu.Lock()
	over := f.over
	f.mu.Unlock()
	if over {
		return
	}
	if err := f.stream.CloseWrite(); err != nil {
		f.fail(err)
	}
}

// socketReader reads a socket into buffers that it holds only while there is something in them.
type socketReader struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // readOnce, bound once

	buf *[largeBuffer]byte
	n   int
	err error
}

// next returns a buffer of largeBuffers with n octets, or what ended the socket.
func (r *socketReader) next() (*[largeBuffer]byte, int, error) {
	r.buf, r.n, r.err = nil, 0, nil
	if err := r.raw.Read(r.read); err != nil {
		return nil, 0, err
	}
	return r.buf, r.n, r.err
}

func (r *socketReader) readOnce(fd uintptr) bool {
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	n, err := unix.Read(int(fd), buf[:])
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), buf[:])
	}
	if n > 0 {
		r.buf, r.n = buf, n
		return true
	}
	largeBuffers.Put(buf)
	switch {
	case err == unix.EAGAIN:
		return false
	case err == nil:
		r.err = io.EOF
	default:
		r.err = os.NewSyscallError("read", err)
	}
	return true
}

// down carries what the client sends.
func (f *streamFlow) down() {
	w := &dataPathWriter{sock: f.sock}
	var err error
	if from, ok := f.stream.(io.WriterTo); ok {
		_, err = from.WriteTo(w)
	} else {
		err = carry(w, f.stream)
	}
	if w.failed {
		f.gone()
		return
	}
	f.downEnded(err)
}

// dataPathWriter remembers that the data path takes no more.
type dataPathWriter struct {
	sock   *net.UnixConn
	failed bool
}

// Write implements io.Writer.
func (w *dataPathWriter) Write(b []byte) (int, error) {
	n, err := w.sock.Write(b)
	w.failed = w.failed || err != nil
	return n, err
}

// carry copies with a buffer that is small while little comes, until the end of r's stream, for which it returns nil.
func carry(w io.Writer, r io.Reader) error {
	small := make([]byte, smallBuffer)
	for {
		full, err := carryOnce(w, r, small)
		if full && err == nil {
			err = carryBurst(w, r)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// carryBurst carries by a large buffer until a read leaves most of it empty.
func carryBurst(w io.Writer, r io.Reader) error {
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	for {
		n, err := r.Read(buf[:])
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err != nil || n < smallBuffer {
			return err
		}
	}
}

// carryOnce reports whether the buffer was filled.
func carryOnce(w io.Writer, r io.Reader, b []byte) (full bool, err error) {
	n, err := r.Read(b)
	if n > 0 {
		if _, werr := w.Write(b[:n]); werr != nil {
			return false, werr
		}
	}
	return n == len(b), err
}

// gone is what a data path that reads no more means: the flow's end, unless it said that it closes.
func (f *streamFlow) gone() {
	late := time.NewTimer(endTimeout)
	defer late.Stop()
	select {
	case <-f.shut:
	case <-late.C:
		f.abort(tunnel.Reset)
	}
}

// downEnded is the end of what the client sends: nil for a FIN.
func (f *streamFlow) downEnded(err error) {
	f.mu.Lock()
	dropped := f.dropped
	f.mu.Unlock()
	switch {
	case dropped:
	case err == nil:
		f.s.tell(&message{kind: kindEnd, id: f.id, code: tunnel.OK})
		f.sock.CloseWrite()
	default:
		f.fail(err)
	}
}
