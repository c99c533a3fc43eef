//go:build !linux

package relay

import (
	"io"
	"net"
	"sync/atomic"
)

// splice is io.Copy between two kernel sockets, in pieces so that it can be counted.
func splice(dst, src *net.TCPConn, n *atomic.Int64) error {
	const pieceSize = 1 << 20
	for {
		piece, err := io.Copy(dst, &io.LimitedReader{R: src, N: pieceSize})
		n.Add(piece)
		if err != nil || piece < pieceSize {
			return err
		}
	}
}
