package netstack

import (
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/weir-dev/weir/flow"
)

var _ flow.BatchConn = (*datagramFlow)(nil)

// maxForward is how many queued datagrams go to a sink at a time.
const maxForward = 64

// Forward implements flow.BatchConn. The read loop offers datagrams to the sink by itself (offer); this goroutine sleeps
// but for those that have to wait for something. Either of them calls the sink, never both: direct and forwarding say who.
func (f *datagramFlow) Forward(sink flow.BatchSink) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sink = sink
	defer func() { f.sink = nil }()
	batch := make([]*buffer.View, 0, 1)
	for {
		for f.direct || f.err == nil && f.sinkErr == nil && !f.readExpired && len(f.queue) == 0 {
			f.readable.Wait()
		}
		switch {
		case f.sinkErr != nil:
			return f.sinkErr
		case f.err != nil:
			return f.opError("read", f.err)
		case f.readExpired:
			return f.opError("read", os.ErrDeadlineExceeded)
		}
		for len(f.queue) > 0 && len(batch) < maxForward {
			batch = append(batch, f.pop())
		}
		f.forwarding = true
		f.mu.Unlock()
		err := writeViews(sink, batch)
		f.mu.Lock()
		f.forwarding = false
		if err != nil {
			return err
		}
		clear(batch)
		batch = batch[:0]
	}
}

// writeViews gives the datagrams to sink, and the buffers back.
func writeViews(sink flow.BatchSink, views []*buffer.View) error {
	datagrams := make([][]byte, len(views))
	for i, v := range views {
		datagrams[i] = v.AsSlice()
	}
	err := sink.WriteBatch(datagrams)
	for _, v := range views {
		v.Release()
	}
	return err
}

// offer gives the sink datagrams from the read loop and queues what it does not take at once, or all behind those that wait
// already. It reports false when the flow has ended.
func (f *datagramFlow) offer(datagrams [][]byte, quote []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	f.quoteLen = copy(f.quote[:], quote)
	if sink := f.sink; sink != nil && f.sinkErr == nil && !f.forwarding && len(f.queue) == 0 {
		f.direct = true
		f.mu.Unlock()
		n, err := sink.TryBatch(datagrams)
		f.mu.Lock()
		f.direct = false
		datagrams, f.sinkErr = datagrams[n:], err
		if f.err != nil || err != nil {
			f.readable.Broadcast()
			return true
		}
		if f.readExpired {
			f.readable.Broadcast() // Forward was told while the sink had the datagrams, and could not look
		}
	}
	for _, b := range datagrams {
		f.enqueue(b)
	}
	if len(datagrams) > 0 {
		f.readable.Broadcast()
	}
	return true
}

// enqueue queues a copy of a datagram within the bounds of the flow and of the table. The caller holds f.mu.
func (f *datagramFlow) enqueue(b []byte) {
	cost := int64(len(b)) + datagramOverhead
	if len(f.queue) >= maxFlowQueue || f.queuedBytes+cost > maxFlowBytes || f.table.queued.Load()+cost > maxTableBytes {
		f.table.count(f.table.cfg.names.queue)
		return
	}
	f.queue = append(f.queue, buffer.NewViewWithData(b))
	f.queuedBytes += cost
	f.table.queued.Add(cost)
}

// WriteBatch implements flow.BatchConn.
func (f *datagramFlow) WriteBatch(datagrams [][]byte) (octets int64, err error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	n, err := f.table.cfg.send(f.key, datagrams)
	for _, b := range datagrams[:n] {
		octets += int64(len(b))
	}
	if err != nil {
		return octets, f.opError("write", err)
	}
	return octets, nil
}

// writable says why nothing can be written, or notes that something is.
func (f *datagramFlow) writable() error {
	f.mu.Lock()
	err := f.err
	if err == nil && !f.writeUntil.IsZero() && time.Until(f.writeUntil) <= 0 {
		err = os.ErrDeadlineExceeded
	}
	f.mu.Unlock()
	if err != nil {
		return f.opError("write", err)
	}
	f.answered.Store(true)
	f.touch()
	return nil
}
