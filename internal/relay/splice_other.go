//go:build !linux

package relay

import (
	"io"
	"net"
	"sync/atomic"
)

// splicer is one direction of a flow between two kernel sockets.
type splicer struct {
	dst, src *net.TCPConn
	taken    *atomic.Int64
}

// newSplicer returns what carries src to dst, nil when they are not both kernel sockets.
func newSplicer(dst, src net.Conn, n *atomic.Int64) *splicer {
	to, isTCP := dst.(*net.TCPConn)
	from, areTCP := src.(*net.TCPConn)
	if !isTCP || !areTCP {
		return nil
	}
	return &splicer{dst: to, src: from, taken: n}
}

// run is io.Copy in pieces, so that it can be counted.
func (s *splicer) run() error {
	const pieceSize = 1 << 20
	for {
		piece, err := io.Copy(s.dst, &io.LimitedReader{R: s.src, N: pieceSize})
		s.taken.Add(piece)
		if err != nil || piece < pieceSize {
			return err
		}
	}
}
