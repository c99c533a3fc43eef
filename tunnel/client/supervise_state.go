package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
)

// Phase is what a supervisor is at.
type Phase string

// The phases.
const (
	Connecting   Phase = "connecting"
	Connected    Phase = "connected"
	Degraded     Phase = "degraded"     // connected, and not well: Reason says how
	Draining     Phase = "draining"     // the session takes no new flows, and there is no other yet
	Reconnecting Phase = "reconnecting" // waits for Retry, then tries again
	Ended        Phase = "ended"
)

// State is what there is to show about the connection.
type State struct {
	Phase     Phase
	Transport string        // session.QUIC or session.WebSocket, when there is a session
	Edge      string        // HOST:PORT or URL that it goes to
	Session   string        // the id of it in both logs: hostile text
	RTT       time.Duration // of packets
	Reason    string        // why it is not Connected, for people; may hold hostile text
	Retry     time.Duration // until the next attempt, for Reconnecting and Draining
}

// report passes a state on when it says something new.
func (s *Supervisor) report(state State) {
	s.mu.Lock()
	rtt := state.RTT
	state.RTT = s.state.RTT
	same := state == s.state
	state.RTT = rtt
	if !same {
		s.state = state
	}
	s.mu.Unlock()
	if same {
		return
	}
	s.cfg.Log.WithField("phase", string(state.Phase)).WithField("transport", state.Transport).WithField("reason", state.Reason).Debug("tunnel client")
	if s.cfg.Report != nil {
		s.cfg.Report(state)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ErrSuperseded says that another process with the same credentials has connected since.
var ErrSuperseded = errors.New("another process has connected as the same client; the newer one has the tunnel now")

// permanent returns the error with which a supervisor ends because no attempt would ever succeed, nil if one may.
func permanent(err error) error {
	var e *tunnel.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, creds.ErrRejected), errors.Is(err, creds.ErrExpired), errors.Is(err, creds.ErrPin), errors.Is(err, creds.ErrNotEnrolled):
		return err
	case !errors.As(err, &e):
		return nil
	}
	switch e.Code {
	case tunnel.Superseded:
		return ErrSuperseded
	case tunnel.Revoked:
		return fmt.Errorf("%w (%w)", creds.ErrRejected, err)
	case tunnel.Version:
		return err
	}
	return nil
}
