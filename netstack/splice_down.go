package netstack

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ReadFrom implements io.ReaderFrom: it carries r's bytes to the client until the end of r's stream. When r is, or
// stands for, one with a kernel socket, large amounts are read from its socket straight into the endpoint's send queue.
func (c *tcpConn) ReadFrom(r io.Reader) (int64, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	host := hostSocket(r)
	if host == nil {
		return c.copyFrom(r)
	}
	if err := c.attach(host); err != nil {
		return 0, c.opError("splice", err)
	}
	defer c.detach()
	d := &hostReader{conn: c}
	read := d.read
	var total int64
	for {
		d.n, d.err = 0, nil
		if err := host.raw.Read(read); err != nil {
			d.err = c.rouse(err, host.conn.SetReadDeadline)
			if d.err == nil {
				continue
			}
		}
		total += int64(d.n)
		host.carried(d.n)
		d.err = host.verdict(d.err)
		switch {
		case d.err == io.EOF:
			return total, nil
		case d.err != nil:
			return total, c.opError("splice", d.err)
		case d.n > 0:
			continue
		}
		if err := c.wait(c.writable, &c.writeBy); err != nil {
			return total, c.opError("splice", err)
		}
	}
}

// hostReader moves bytes from a socket to the endpoint.
type hostReader struct {
	conn *tcpConn
	bulk bool // the last read filled the buffer: there is more
	n    int  // bytes moved by the last call of read
	err  error
}

// read is what RawConn.Read calls: it reports false when there is nothing to read. With n and err zero it says that the
// send buffer is full.
func (d *hostReader) read(fd uintptr) bool {
	if d.bulk {
		avail, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if err == nil && avail >= copySize {
			size := min(avail, spliceRead)
			if size > spliceSegment {
				size -= size % spliceSegment
			}
			p := hostPayload{fd: int(fd), size: size}
			d.n, d.err = d.conn.enqueue(&p)
			if p.err != nil {
				d.err = hostError{p.err}
			}
			return true
		}
		d.bulk = false
	}
	return d.readSmall(int(fd))
}

// readSmall moves at most copySize bytes through a buffer. It is also how the end of the stream and errors are found.
func (d *hostReader) readSmall(fd int) bool {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	n, err := readRaw(fd, buf[:])
	for err == unix.EINTR {
		n, err = readRaw(fd, buf[:])
	}
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		d.err = hostError{os.NewSyscallError("read", err)}
	case n == 0:
		d.err = hostError{io.EOF}
	default:
		d.bulk = n == len(buf)
		d.n, d.err = d.conn.writeAll(buf[:n])
	}
	return true
}

// hostPayload is a tcpip.Payloader that reads from a socket. The endpoint reads on until it has Len bytes or an error,
// and an error throws away what it had; so size must be no more than the socket holds.
type hostPayload struct {
	fd, size int
	err      error // what Read failed with
}

// Len implements tcpip.Payloader.
func (p *hostPayload) Len() int { return p.size }

// Read implements tcpip.Payloader.
func (p *hostPayload) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, err := readRaw(p.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			p.err = os.NewSyscallError("read", err)
		case n == 0:
			p.err = io.ErrUnexpectedEOF
		}
		return max(n, 0), p.err
	}
}
