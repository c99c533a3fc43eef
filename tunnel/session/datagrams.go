package session

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// datagrams is the edge's end of a UDP flow.
type datagrams struct {
	*udpFlow
	edge *Edge
	come chan struct{} // has one when there is something in the inbox

	ended atomic.Pointer[error] // what Send returns from now on
	once  sync.Once
}

var _ tunnel.Batched = (*datagrams)(nil)

// OpenDatagrams implements [tunnel.Opener]. Without a deadline in ctx it waits at most [wire.MaxPatience].
func (e *Edge) OpenDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	q, err := e.open(ctx, wire.Header{Kind: wire.UDP, Open: o}, urgencyNew)
	if err != nil {
		return nil, err
	}
	d := &datagrams{edge: e, come: make(chan struct{}, 1)}
	// The flow is known before the STATUS, since datagrams may overtake it.
	d.udpFlow = newUDPFlow(e.exchange, q, o.Sandbox, d.some)
	err = e.exchange.add(d.udpFlow)
	if err == nil {
		_, err = e.await(ctx, q)
	}
	if err != nil {
		e.exchange.remove(d.udpFlow)
		refuse(q, tunnel.Lost)
		e.end()
		return nil, err
	}
	e.spawn(d.watch)
	return d, nil
}

// some tells whoever waits in Receive.
func (d *datagrams) some() {
	select {
	case d.come <- struct{}{}:
	default:
	}
}

// watch reads the flow's stream, whose end is the end of the flow.
func (d *datagrams) watch() {
	err := flowError(d.receiveLong())
	d.over(err)
	d.in.end(err)
}

// over ends the flow once, with what its methods return from now on.
func (d *datagrams) over(err error) {
	d.ended.CompareAndSwap(nil, &err)
	d.once.Do(func() {
		d.edge.exchange.remove(d.udpFlow)
		switch {
		case err == io.EOF || err == net.ErrClosed:
			d.q.CancelRead(quic.StreamErrorCode(tunnel.OK))
			d.endStream()
		default:
			d.reset(streamCode(err))
		}
		d.edge.end()
	})
}

func (d *datagrams) By() tunnel.Identity { return d.edge.who }

func (d *datagrams) MaxDatagram() int { return d.max() }

func (d *datagrams) Send(datagram []byte) error {
	one := [1][]byte{datagram}
	return d.SendBatch(one[:])
}

func (d *datagrams) SendBatch(batch [][]byte) error {
	if ended := d.ended.Load(); ended != nil {
		return *ended
	}
	d.send(batch)
	return nil
}

func (d *datagrams) Receive(b []byte) (int, error) {
	var one [1][]byte
	for {
		got, err := d.in.take(one[:0], 0)
		if len(got) > 0 {
			return copy(b, got[0]), nil
		}
		if err != nil {
			return 0, err
		}
		<-d.come
	}
}

// What ReceiveBatch hands over at once.
const (
	batchOctets    = 64 << 10
	batchDatagrams = 64
)

func (d *datagrams) ReceiveBatch(take func(batch [][]byte) error) error {
	batch := make([][]byte, 0, batchDatagrams)
	for {
		got, err := d.in.take(batch[:0], batchOctets)
		switch {
		case len(got) > 0:
			if err := take(got); err != nil {
				return err
			}
			clear(got)
		case err != nil:
			return err
		default:
			<-d.come
		}
	}
}

// flushTimeout is how long the last datagrams of a flow that was closed may wait to be sent.
const flushTimeout = maxAge

// Close ends the flow when what was sent before is on its way.
func (d *datagrams) Close() error {
	closed := error(net.ErrClosed)
	if !d.ended.CompareAndSwap(nil, &closed) {
		return nil
	}
	d.in.end(net.ErrClosed)
	if d.x.schedule.waiting(d.udpFlow) == 0 {
		d.over(net.ErrClosed)
		return nil
	}
	d.edge.spawn(func() {
		for end := time.Now().Add(flushTimeout); d.x.schedule.waiting(d.udpFlow) > 0 && time.Now().Before(end); {
			time.Sleep(flushTimeout / 100)
		}
		d.over(net.ErrClosed)
	})
	return nil
}
