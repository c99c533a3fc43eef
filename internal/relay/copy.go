package relay

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

const (
	// smallBuffer is what a half holds while it waits for a connection that has no fast path.
	smallBuffer = 4 << 10

	// largeBuffer is what it takes from the pool while the small one keeps being filled.
	largeBuffer = 64 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// carry copies src to dst until the end of src's stream, adding to n as bytes are taken by dst.
func carry(dst, src net.Conn, n *atomic.Int64) error {
	if s := newSplicer(dst, src, n); s != nil {
		return s.run()
	}
	return carryOther(dst, src, n)
}

// carryOther is carry where one side is no kernel socket.
func carryOther(dst, src net.Conn, n *atomic.Int64) error {
	_, kernelDst := dst.(*net.TCPConn)
	_, kernelSrc := src.(*net.TCPConn)
	writerTo, canWriteTo := src.(io.WriterTo)
	readerFrom, canReadFrom := dst.(io.ReaderFrom)
	switch {
	case canWriteTo && !kernelSrc:
		_, err := writerTo.WriteTo(meteredWriter{dst, n})
		return err
	case canReadFrom && !kernelDst:
		_, err := readerFrom.ReadFrom(meteredReader{src, n})
		return err
	}
	return copyBuffered(meteredWriter{dst, n}, src)
}

// copyBuffered is io.Copy with a buffer that is small while little comes.
func copyBuffered(dst io.Writer, src io.Reader) error {
	small := make([]byte, smallBuffer)
	for {
		n, err := src.Read(small)
		if n > 0 {
			if _, werr := dst.Write(small[:n]); werr != nil {
				return werr
			}
		}
		if err == nil && n == len(small) {
			err = copyBurst(dst, src)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyBurst copies with a pooled large buffer until a read leaves most of it empty.
func copyBurst(dst io.Writer, src io.Reader) error {
	large := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(large)
	for {
		n, err := src.Read(large[:])
		if n > 0 {
			if _, werr := dst.Write(large[:n]); werr != nil {
				return werr
			}
		}
		if err != nil || n < smallBuffer {
			return err
		}
	}
}

// meteredWriter counts what its connection takes. A source with a fast path of its own may write to NetConn instead and
// report it by Carried.
type meteredWriter struct {
	conn net.Conn
	n    *atomic.Int64
}

func (w meteredWriter) Write(b []byte) (int, error) {
	n, err := w.conn.Write(b)
	w.n.Add(int64(n))
	return n, err
}

// NetConn returns the connection behind the writer.
func (w meteredWriter) NetConn() net.Conn { return w.conn }

// Carried counts n bytes that were written to NetConn directly.
func (w meteredWriter) Carried(n int) { w.n.Add(int64(n)) }

// meteredReader is the same for the reading side: what it hands out counts as taken by the other side.
type meteredReader struct {
	conn net.Conn
	n    *atomic.Int64
}

func (r meteredReader) Read(b []byte) (int, error) {
	n, err := r.conn.Read(b)
	r.n.Add(int64(n))
	return n, err
}

// NetConn returns the connection behind the reader.
func (r meteredReader) NetConn() net.Conn { return r.conn }

// Carried counts n bytes that were read from NetConn directly.
func (r meteredReader) Carried(n int) { r.n.Add(int64(n)) }
