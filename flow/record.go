package flow

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/flow/sniff"
	"github.com/weir-dev/weir/internal/relay"
)

// OwnerWait bounds how long an event waits for the owner of its flow. An answer that comes later is lost.
const OwnerWait = 500 * time.Millisecond

// acceptOwnerWait bounds how long a handshake waits for it. The dial has taken its time already, so over a network there is
// nothing left to wait for; but a program that talks to a server next door may be gone before anybody has looked.
const acceptOwnerWait = 5 * time.Millisecond

// record writes the flow's network-connect, once.
func (f *visit) record() {
	if f.recorded {
		return
	}
	f.recorded = true
	c := &event.Connect{
		Dst: f.dst, Src: f.Src, Protocol: f.Network, Names: f.asked,
		Route: f.route(), Verdict: f.decision.Verdict.String(), Rule: f.decision.Rule, Reason: f.decision.Reason,
		Client: f.by, Door: f.doorName(), ALPN: f.hint.ALPN, ECH: f.hint.ECH,
	}
	c.Hostname, c.NameSource = f.name()
	switch f.hint.Source {
	case sniff.SourceSNI, sniff.SourceQUICSNI:
		c.SNI = f.hint.Host
	case sniff.SourceHTTPHost:
		c.HTTPHost = f.hint.Host
	}
	if f.process != nil && len(f.process) == 0 {
		f.telling.Add(1)
		f.told = make(chan struct{})
		go f.emitWithOwner(c)
		return
	}
	if f.process != nil {
		c.Process = <-f.process
		f.process = nil
	}
	f.emit(c)
}

// emitWithOwner waits for the owner, so that the flow does not.
func (f *visit) emitWithOwner(c *event.Connect) {
	defer f.telling.Add(-1)
	defer close(f.told)
	timer := time.NewTimer(OwnerWait)
	defer timer.Stop()
	select {
	case c.Process = <-f.process:
	case <-timer.C:
	}
	f.emit(c)
}

// name is what the flow goes by: a claim, else the evidence.
func (f *visit) name() (name, source string) {
	switch {
	case f.hint.Host != "":
		return f.hint.Host, f.hint.Source
	case len(f.asked) > 0:
		return f.asked[0], "dns"
	}
	return "", "none"
}

func (f *visit) route() string {
	if f.decision.Verdict == policy.Deny {
		return "deny"
	}
	return f.decision.Route
}

// recordClose writes the flow's network-close, after its network-connect.
func (f *visit) recordClose(up, down int64, cause string, err error) {
	if f.told != nil {
		<-f.told
	}
	name, _ := f.name()
	c := &event.Close{
		Hostname: name, Dst: f.dst, Protocol: f.Network, Route: f.decision.Route, Client: f.by, Verdict: f.decision.Verdict.String(),
		BytesSent: uint64(up), BytesReceived: uint64(down), Duration: time.Since(f.start), Close: cause,
	}
	switch {
	case errors.Is(err, ErrNotDNS):
		c.Reason, c.Rule = policy.ReasonMalformed, "builtin:dns"
	case cause == "policy" && f.revoked.Load() != nil:
		c.Reason, c.Rule = f.revoked.Load().Reason, f.revoked.Load().Rule
	case cause == "policy":
		c.Reason, c.Rule = f.decision.Reason, f.decision.Rule
	}
	if cause == "error" && err != nil {
		c.Error = err.Error()
	}
	f.emit(c)
}

func (f *visit) emit(d event.Details) {
	f.Events.Emit(&event.Event{Time: time.Now(), App: f.App, Sandbox: f.Sandbox, Flow: f.id, Details: d})
}

// closeOf names the way a flow ended.
func closeOf(ctx context.Context, err error) string {
	switch {
	case errors.Is(err, errPolicy), errors.Is(err, ErrNotDNS), context.Cause(ctx) == errPolicy:
		return "policy"
	case ctx.Err() != nil:
		return "exit"
	case relay.IsLost(err):
		return string(relay.TunnelLost)
	case err == nil:
		return "fin"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "rst"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "timeout"
	}
	return "error"
}

// doorName is the door that the flow came by.
func (f *visit) doorName() string {
	if f.Arrival.Door != "" {
		return f.Arrival.Door
	}
	return f.Gate.Door
}
