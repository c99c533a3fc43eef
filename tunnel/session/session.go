package session

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// link is what both ends of a session have: the connection, the control stream, and who is at work on them.
type link struct {
	conn      *quic.Conn
	control   *control
	exchange  *exchange
	fair      *fairness
	stalls    *stalls
	transport string
	log       logrus.FieldLogger

	work sync.WaitGroup // the goroutines of the session
	done chan struct{}  // closed when the connection has ended

	mu       sync.Mutex
	flows    int           // open now
	draining bool          // no flow is opened or taken any more
	idle     chan struct{} // closed when draining and there is no flow; nil before
	err      *tunnel.Error

	toldDrain  atomic.Bool // the other side has said DRAIN
	violations atomic.Int32
	counters   counters
}

// counters are what became of things, for Stats and for tests.
type counters struct {
	malformed atomic.Uint64 // streams, messages and datagrams that do not keep to the format
	refused   atomic.Uint64 // streams that the other side may not open
}

// maxViolations is how many streams that break the rules a session bears.
const maxViolations = 16

func newLink(conn *quic.Conn, stream *quic.Stream, role Role, transport string, log logrus.FieldLogger) *link {
	window := int64(clientWindow)
	if role == EdgeRole {
		window = edgeWindow
	}
	if log == nil {
		log = silent()
	}
	l := &link{conn: conn, transport: transport, log: log, fair: newFairness(), stalls: newStalls(window / 2), done: make(chan struct{})}
	l.control = newControl(l, stream)
	l.exchange = newExchange(l)
	return l
}

// silent is the logger that stands for nil.
func silent() logrus.FieldLogger {
	log := logrus.New()
	log.Level = logrus.PanicLevel
	return log
}

// run does the work of a session until the connection has ended: each of the loops returns then. handle is for the control
// messages of the other side.
func (l *link) run(handle func(wire.Message) error, loops ...func()) {
	for _, loop := range loops {
		l.work.Go(loop)
	}
	l.work.Go(func() { l.control.read(handle) })
	l.work.Go(l.exchange.send)
	l.work.Go(l.exchange.receive)
	l.work.Go(func() { l.stalls.watch(l.conn.Context().Done()) })
	l.work.Go(func() {
		<-l.conn.Context().Done()
		l.mu.Lock()
		l.err = ended(context.Cause(l.conn.Context()))
		l.mu.Unlock()
		close(l.done)
	})
}

// spawn starts a goroutine that ends with the session at the latest.
func (l *link) spawn(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil { // somebody may have stopped waiting for the others already
		go f()
		return
	}
	l.work.Go(f)
}

// Done is closed when the session has ended.
func (l *link) Done() <-chan struct{} { return l.done }

// Err says how the session has ended: an *Error, whose code is that of the side that closed it, or [tunnel.Lost]. It is nil
// before Done is closed.
func (l *link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return nil
	}
	return l.err
}

// CloseWith ends the session and all of its flows at once, tells the other side why, and waits for the session's goroutines.
func (l *link) CloseWith(code tunnel.Code, text string) {
	l.conn.CloseWithError(quic.ApplicationErrorCode(code), cut(text))
	l.work.Wait()
}

// fail is CloseWith for the session's own goroutines.
func (l *link) fail(code tunnel.Code, text string) {
	l.conn.CloseWithError(quic.ApplicationErrorCode(code), cut(text))
}

// violated counts a stream that the other side should not have opened, or not so.
func (l *link) violated(what string) {
	l.log.WithField("what", what).Debug("tunnel: the other side breaks the rules")
	if l.violations.Add(1) == maxViolations {
		l.fail(tunnel.Malformed, what)
	}
}

// begin counts one more flow, unless the session is draining.
func (l *link) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return tunnel.Errorf(tunnel.Draining, "")
	}
	l.flows++
	return nil
}

// end counts one less.
func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flows--
	l.tellIdle()
}

// tellIdle is called with the lock held.
func (l *link) tellIdle() {
	if l.draining && l.flows == 0 && l.idle != nil {
		select {
		case <-l.idle:
		default:
			close(l.idle)
		}
	}
}

// Stats are what became of the session so far.
func (l *link) Stats() tunnel.Stats {
	q := l.conn.ConnectionStats()
	l.mu.Lock()
	flows := l.flows
	l.mu.Unlock()
	s := tunnel.Stats{
		Transport: l.transport, RTT: q.SmoothedRTT, Flows: flows,
		Sent: q.BytesSent, Received: q.BytesReceived, PacketsSent: q.PacketsSent, PacketsLost: q.PacketsLost,
	}
	l.exchange.stats(&s)
	return s
}

// Ping measures a round trip to the other side's session, over the control stream.
func (l *link) Ping(ctx context.Context) (time.Duration, error) { return l.control.ping(ctx) }

// refuse ends a stream that nothing is done with.
func refuse(q *quic.Stream, code tunnel.Code) {
	q.CancelRead(quic.StreamErrorCode(code))
	q.CancelWrite(quic.StreamErrorCode(code))
}

// answer writes a STATUS that no reset takes away any more.
func (l *link) answer(q *quic.Stream, s wire.Status) error {
	l.fair.use(time.Now())
	q.SetWriteDeadline(time.Now().Add(headerTimeout))
	_, err := q.Write(wire.AppendStatus(nil, s))
	q.SetReliableBoundary()
	q.SetWriteDeadline(time.Time{})
	return err
}
