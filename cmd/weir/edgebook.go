//go:build linux && !client

package main

import (
	"io"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel/edge"
)

// edgeBook tells of the clients that come and go: to the event log, to people, and on stdout for programs.
type edgeBook struct {
	app, sandbox string // of the run that the edge belongs to; empty for one that serves many
	log          event.Sink
	ui           *ui       // nil says nothing
	lines        io.Writer // nil prints nothing
}

func (b *edgeBook) changed(c edge.Change) {
	e := &event.Event{Time: time.Now(), App: b.app, Sandbox: b.sandbox, Details: &event.Tunnel{
		Up: c.Up, Client: c.Client.String(), Transport: c.Transport, Remote: c.Remote, Session: c.Session, Reason: c.Reason,
	}}
	if b.lines != nil {
		b.lines.Write(append(e.AppendJSON(nil), '\n'))
	}
	if b.ui != nil {
		if c.Up {
			b.ui.sayf("tunnel client %s is connected, by %s from %s", c.Client, c.Transport, c.Remote)
		} else {
			b.ui.sayf("tunnel client %s is not connected any more: %s", c.Client, c.Reason)
		}
	}
	b.log.Emit(e)
}
