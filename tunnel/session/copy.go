package session

import (
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// smallBuffer is what a direction holds while it waits for octets from a socket.
	smallBuffer = 4 << 10

	// largeBuffer is what it takes from the pool while many come. One write of it to a stream keeps the connection's send loop
	// busy for some ninety packets, a few messages of UDP segments.
	largeBuffer = 128 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// writeError is an error of the side that was written to.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// pour copies what comes on a stream to w until its end: each time as much as has come. While nothing comes it holds no
// buffer. Its error is that of the stream, or a *writeError.
func pour(w io.Writer, q *quic.Stream, p *pouring) (total int64, err error) {
	var one [1]byte
	for {
		// The end of the stream and its errors are for Read to tell: it also ends the stream's life.
		q.Peek(one[:])
		n, err := pourOnce(w, q, p)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func pourOnce(w io.Writer, q *quic.Stream, p *pouring) (int, error) {
	large := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(large)
	n, err := q.Read(large[:])
	if n > 0 {
		p.got.Add(int64(n))
		p.since.Store(time.Now().UnixNano())
		n, werr := w.Write(large[:n])
		p.since.Store(0)
		if werr != nil {
			return n, &writeError{werr}
		}
	}
	return n, err
}

// fill copies what comes from r to w until its end, with a buffer that is small while little comes. Its error is that of r,
// or a *writeError.
func fill(w io.Writer, r io.Reader) (total int64, err error) {
	small := make([]byte, smallBuffer)
	for {
		n, full, err := fillOnce(w, r, small)
		total += int64(n)
		if err == nil && full {
			var more int64
			more, err = fillBurst(w, r)
			total += more
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// fillOnce copies what one read gives. It reports whether that was all that there was room for.
func fillOnce(w io.Writer, r io.Reader, buffer []byte) (n int, full bool, err error) {
	n, err = r.Read(buffer)
	if n > 0 {
		if n, werr := w.Write(buffer[:n]); werr != nil {
			return n, false, &writeError{werr}
		}
	}
	return n, n == len(buffer), err
}

// fillBurst copies with a large buffer until a read leaves most of it empty.
func fillBurst(w io.Writer, r io.Reader) (total int64, err error) {
	large := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(large)
	for {
		n, _, err := fillOnce(w, r, large[:])
		total += int64(n)
		if err != nil || n < smallBuffer {
			return total, err
		}
	}
}
