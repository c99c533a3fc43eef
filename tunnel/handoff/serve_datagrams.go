//go:build linux

package handoff

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tunnel"
)

// datagramFlow carries a UDP flow between the data path's socket and the client's.
type datagramFlow struct {
	s    *server
	id   uint64
	d    tunnel.Datagrams
	sock *net.UnixConn // nil before start

	mu   sync.Mutex
	over bool

	list [][]byte // of up

	// sending serialises what up and down tell the data path.
	sending sync.Mutex
	told    int // the largest datagram that it knows of
}

func newDatagramFlow(s *server, id uint64, d tunnel.Datagrams) *datagramFlow {
	return &datagramFlow{s: s, id: id, d: d, told: d.MaxDatagram()}
}

func (f *datagramFlow) socketType() int { return unix.SOCK_SEQPACKET }
func (f *datagramFlow) largest() int    { return f.told }

// start carries both directions.
func (f *datagramFlow) start(sock *net.UnixConn) {
	f.mu.Lock()
	f.sock = sock
	over := f.over
	f.mu.Unlock()
	if over {
		sock.Close()
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		f.abort(tunnel.Internal)
	}
	var both sync.WaitGroup
	if err == nil {
		both.Go(func() { f.up(raw) })
	}
	f.s.running.Go(func() {
		if err == nil {
			f.down(raw)
		}
		f.abort(tunnel.OK)
		both.Wait()
		f.s.forget(f.id, kindOpenDatagrams)
	})
}

// fin and closed implement served: the socket's end says so.
func (f *datagramFlow) fin()    {}
func (f *datagramFlow) closed() {}

// lost implements served.
func (f *datagramFlow) lost() { f.abort(tunnel.Reset) }

// abort implements served.
func (f *datagramFlow) abort(tunnel.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	f.over = true
	f.d.Close()
	if f.sock != nil {
		f.sock.Close()
	}
}

// up carries what the data path sends.
func (f *datagramFlow) up(raw syscall.RawConn) {
	batched, _ := f.d.(tunnel.Batched)
	for {
		buf, n, err := readMessage(raw)
		if err != nil {
			f.abort(tunnel.OK)
			return
		}
		err = f.forward(batched, buf[:n])
		batchBuffers.Put(buf)
		if err == nil {
			err = f.tellLargest(raw)
		}
		if err != nil {
			f.end(err)
			return
		}
	}
}

// forward sends what is in one message of the data path's.
func (f *datagramFlow) forward(to tunnel.Batched, b []byte) (err error) {
	if b[0] != recordBatch {
		return errMalformed
	}
	if f.list, err = splitBatch(f.list[:0], b[1:]); err != nil {
		return err
	}
	defer func() {
		clear(f.list)
		if cap(f.list) > keptList {
			f.list = nil
		}
	}()
	if to != nil {
		return to.SendBatch(f.list)
	}
	for _, datagram := range f.list {
		if err := f.d.Send(datagram); err != nil {
			return err
		}
	}
	return nil
}

// keptList is how many datagrams of a batch are pointed at without a new list. A batch of empty ones has 32,753.
const keptList = 64

// tellLargest tells the data path when the largest datagram is another one.
func (f *datagramFlow) tellLargest(raw syscall.RawConn) error {
	now := f.d.MaxDatagram()
	f.sending.Lock()
	defer f.sending.Unlock()
	if now == f.told {
		return nil
	}
	sent, err := f.put(raw, encodeLargest(nil, now))
	if sent {
		f.told = now // otherwise the next datagram is the occasion
	}
	return err
}

// put writes one message if the socket takes it now.
func (f *datagramFlow) put(raw syscall.RawConn, b []byte) (sent bool, err error) {
	var errno error
	werr := raw.Write(func(fd uintptr) bool {
		errno = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		return true
	})
	switch {
	case werr != nil:
		return false, werr
	case errors.Is(errno, unix.EPIPE), errors.Is(errno, unix.ECONNRESET):
		return false, errno
	}
	return errno == nil, nil
}

// down carries what the client sends.
func (f *datagramFlow) down(raw syscall.RawConn) {
	var err error
	if d, ok := f.d.(tunnel.Batched); ok {
		err = d.ReceiveBatch(func(datagrams [][]byte) error { return f.deliver(raw, datagrams) })
	} else {
		err = f.receive(raw)
	}
	f.end(err)
}

// receive is ReceiveBatch for a flow that has one datagram at a time.
func (f *datagramFlow) receive(raw syscall.RawConn) error {
	b := make([]byte, maxDatagram)
	for {
		n, err := f.d.Receive(b)
		if err != nil {
			return err
		}
		if err := f.deliver(raw, [][]byte{b[:n]}); err != nil {
			return err
		}
	}
}

// deliver gives datagrams to the data path, in few messages. What it has no room for is lost and counted.
func (f *datagramFlow) deliver(raw syscall.RawConn, datagrams [][]byte) error {
	if err := f.tellLargest(raw); err != nil {
		return err
	}
	buf := batchBuffers.Get().(*[maxBatch]byte)
	defer batchBuffers.Put(buf)
	for len(datagrams) > 0 {
		b, n := fillBatch(buf[:0], datagrams)
		if n == 0 {
			return tunnel.Errorf(tunnel.Malformed, "a datagram of %d octets", len(datagrams[0]))
		}
		sent, err := f.put(raw, b)
		if err != nil {
			return err
		}
		if !sent {
			f.s.Counters.DatagramsDropped.Add(uint64(n))
		}
		datagrams = datagrams[n:]
	}
	return nil
}

// fillBatch appends as many datagrams as one message has room for, at least one, and says how many.
func fillBatch(b []byte, datagrams [][]byte) ([]byte, int) {
	for i, datagram := range datagrams {
		next, ok := appendDatagram(b, datagram)
		if !ok {
			return b, i
		}
		b = next
	}
	return b, len(datagrams)
}

// endWait is how long the word about a flow's end waits for room.
const endWait = time.Second

// end tells the data path how the flow ended, and closes it.
func (f *datagramFlow) end(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		f.sock.SetWriteDeadline(time.Now().Add(endWait))
		f.sock.Write(encodeEnd(nil, errorOf(err)))
	}
	if errors.Is(err, errMalformed) {
		f.s.Counters.Malformed.Add(1)
	}
	f.abort(tunnel.OK)
}
