package flow

import (
	"context"
	"runtime"

	"github.com/weir-dev/weir/internal/relay"
)

// Opener is a [Handler] to which a door lends a goroutine only while a flow of "tcp" is being opened: Open returns when the
// flow is refused or its bytes begin to flow, and ended is called, once and from any goroutine, when the flow has ended and
// nothing of the Arrival is used any more.
type Opener interface {
	Handler
	Open(ctx context.Context, a Arrival, ended func())
}

// Open implements [Opener]. To open a flow takes a deep stack, to carry it a small one, and a goroutine keeps the largest it
// ever had: an idle flow does not hold what only its beginning needed.
func (g *Gate) Open(ctx context.Context, a Arrival, ended func()) {
	deepen()
	ctx, f := g.enter(ctx, a)
	if f == nil {
		ended()
		return
	}
	s := f.openStream(ctx)
	if s.relay == nil {
		f.sent()
		f.leave()
		ended()
		return
	}
	go f.carry(ctx, s, ended)
}

// carry is the life of a TCP flow that was let through.
func (f *visit) carry(ctx context.Context, s opening, ended func()) {
	defer ended()
	defer f.leave()
	s.relay.Up(s.upward)
	var stats relay.Stats
	over := s.relay.Over()
	if over {
		stats = s.relay.Wait() // before anybody who waits for this flow's last octet may end all that are left
	}
	f.sent()
	s.held.release()
	if !over {
		stats = s.relay.Wait()
	}
	f.ended(ctx, stats)
}

// deepen makes the goroutine's stack as large as an opening needs at once. It would grow there all the same, by doubling, and
// each time every frame that is on it is copied and adjusted, which was a tenth of the work of a short connection.
//
//go:noinline
func deepen() {
	var room [9 << 10]byte
	runtime.KeepAlive(&room)
}
