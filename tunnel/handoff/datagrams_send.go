//go:build linux

package handoff

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// sendPatience is how long a sender may wait for the edge to read. Datagrams that are older are of no use to anybody.
const sendPatience = 250 * time.Millisecond

// SendSome is SendBatch for who has a queue of its own: it does not lose what finds no room, but stops there, or waits where
// wait is set, though not for longer than 250 ms. n is with how many of the datagrams it is done, those that no UDP carries
// included, octets what was sent of them.
func (d *Datagrams) SendSome(datagrams [][]byte, wait bool) (n int, octets int64, err error) {
	if why := d.why.Load(); why != nil {
		return 0, 0, why
	}
	buf := batchBuffers.Get().(*[maxBatch]byte)
	defer batchBuffers.Put(buf)
	for n < len(datagrams) {
		b, count, size := buf[:0], 0, int64(0)
		for _, datagram := range datagrams[n:] {
			if len(datagram) <= maxDatagram {
				next, ok := appendDatagram(b, datagram)
				if !ok {
					break
				}
				b, size = next, size+int64(len(datagram))
			}
			count++
		}
		taken, err := d.sendWaiting(b, count, wait)
		if err != nil || !taken {
			return n, octets, err
		}
		n, octets = n+count, octets+size
	}
	return n, octets, nil
}

// sendWaiting writes one message of count datagrams, and reports whether it is done with it.
func (d *Datagrams) sendWaiting(b []byte, count int, wait bool) (done bool, err error) {
	if len(b) == 0 {
		return true, nil
	}
	var errno error
	attempt := func(fd uintptr) bool {
		errno = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		return errno != unix.EAGAIN
	}
	once := func(fd uintptr) bool { attempt(fd); return true }
	err = d.raw.Write(once)
	if err == nil && errno == unix.EAGAIN && wait {
		d.c.SetWriteDeadline(time.Now().Add(sendPatience))
		err = d.raw.Write(attempt)
		d.c.SetWriteDeadline(time.Time{})
		if isTimeout(err) {
			d.dropped.Add(uint64(count))
			return true, nil
		}
	}
	switch {
	case err != nil:
		return false, d.failure(err)
	case errno == unix.EAGAIN:
		return false, nil
	case errors.Is(errno, unix.EPIPE):
		return true, d.over()
	}
	return true, nil
}
