package netstack

import (
	"io"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// copyTo is WriteTo for writers that are no kernel socket.
func (c *tcpConn) copyTo(w io.Writer) (int64, error) {
	var total int64
	for {
		n, err := c.copyOnce(w)
		total += int64(n)
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		case n > 0:
			continue
		}
		if err := c.wait(c.readable, &c.readBy); err != nil {
			return total, c.opError("read", err)
		}
	}
}

// copyOnce moves up to copySize received bytes to w.
func (c *tcpConn) copyOnce(w io.Writer) (int, error) {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	dst := tcpip.SliceWriter(buf[:])
	n, err := c.consume(&dst)
	if err != nil && err != io.EOF {
		return 0, c.opError("read", err)
	}
	if n > 0 {
		return w.Write(buf[:n])
	}
	return 0, err
}

// copyFrom is ReadFrom for readers that are no kernel socket. While it waits for little, it holds little.
func (c *tcpConn) copyFrom(r io.Reader) (int64, error) {
	const idleSize = 4 << 10
	idle := make([]byte, idleSize)
	var total int64
	for {
		n, err := r.Read(idle)
		w, werr := c.writeAll(idle[:n])
		total += int64(w)
		if werr != nil {
			return total, c.opError("write", werr)
		}
		if n == len(idle) && err == nil {
			var m int64
			m, err = c.copyBurst(r, idleSize)
			total += m
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// copyBurst copies through a pooled buffer until a read brings less than enough bytes.
func (c *tcpConn) copyBurst(r io.Reader, enough int) (int64, error) {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		n, err := r.Read(buf[:])
		w, werr := c.writeAll(buf[:n])
		total += int64(w)
		switch {
		case werr != nil:
			return total, c.opError("write", werr)
		case err != nil || n < enough:
			return total, err
		}
	}
}
