//go:build linux

package gauntlet

import (
	"encoding/binary"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// uplink is the internet's end of the cable to the host.
const uplink = "internet0"

// everyType is ETH_P_ALL in network byte order.
var everyType = binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})

// watchWire has every frame that comes from the host over the cable shown to match, until the run is over; wireSaw says how
// many it said yes to. It is the witness for what a server's socket does not show. match runs on one goroutine.
func (s *Stage) watchWire(match func(frame []byte) bool) error {
	fd := -1
	err := s.World.Internet(func() error {
		link, err := net.InterfaceByName(uplink)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(everyType)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everyType, Ifindex: link.Index})
	})
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 70_000)
		for !over.Load() {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING && match(b[:n]) {
				s.wire.Add(1)
			}
		}
		unix.Close(fd)
	}()
	s.Defer(func() {
		over.Store(true)
		<-done
	})
	return nil
}

// onWire is a Harm: at least n frames that watchWire looks for have left the host.
func onWire(n int64) func(*Stage) bool {
	return func(s *Stage) bool { return s.wire.Load() >= n }
}

// eventually asks until the answer is yes, for as long as a server may be late.
func eventually(yes func() bool) bool {
	for end := time.Now().Add(patience); !yes(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// mirrored is the token backwards: what an attacker says where it may, to show that it got that far.
func mirrored(token string) string {
	b := []byte(token)
	slices.Reverse(b)
	return string(b)
}
