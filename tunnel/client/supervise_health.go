package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-dev/weir/tunnel/session"
)

// What makes a path suspect of losing large packets, and how it is found out.
const (
	suspectLoss = 3       // packets lost since the last look
	largeProbe  = 8 << 10 // octets: several full packets each way
	maxFailures = 2       // of probes in a row, while small packets pass
	maxUnheard  = 2       // pings in a row without an answer, while QUIC does not take the session for lost
)

// health is what is known of the session. A session that is silent is ended by QUIC's own idle timeout, so that nothing that
// works is ended by a question that got lost. But one can be alive by small packets alone, when the path has shrunk: one that
// does not answer gets a successor, and is ended only when the successor stands and it still does not answer.
type health struct {
	busy     bool // a question is under way
	asked    time.Time
	lost     uint64 // packets, when last looked
	failures int    // of probes
	unheard  int    // pings in a row
	reason   string
}

// checkHealth asks the edge for a sign of life, and with large packets when some were lost.
func (k *keeper) checkHealth() {
	if k.cur == nil || k.draining || k.health.busy || time.Since(k.health.asked) < pingEvery {
		return
	}
	h := &k.health
	h.busy, h.asked = true, time.Now()
	lost := k.cur.Stats().PacketsLost
	suspect := k.cur.Way().transport == session.QUIC && !k.small && (lost >= h.lost+suspectLoss || h.failures > 0)
	h.lost = lost
	c := k.cur
	k.beside(func(ctx context.Context) func() {
		pinged, probed := ask(ctx, c, suspect)
		return func() {
			if k.cur != c {
				return
			}
			k.health.busy = false
			k.answered(pinged, suspect, probed)
		}
	})
}

// ask pings, and probes with large packets where they are suspect.
func ask(ctx context.Context, c carrier, suspect bool) (pinged, probed error) {
	patience, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	if suspect {
		if _, probed = c.Probe(patience, largeProbe); probed == nil {
			return nil, nil
		}
		again, cancel := context.WithTimeout(ctx, pingPatience)
		defer cancel()
		patience = again
	}
	_, pinged = c.Ping(patience)
	return pinged, probed
}

// answered judges what came back.
func (k *keeper) answered(pinged error, suspect bool, probed error) {
	h := &k.health
	if k.draining {
		return
	}
	switch {
	case pinged != nil:
		h.unheard++
		h.reason = "the edge does not answer"
	case suspect && probed != nil:
		h.failures++
		h.reason = "large packets are lost on the way"
	default:
		h.failures, h.unheard, h.reason = 0, 0, ""
	}
	k.reportConnected(h.reason)
	switch {
	case h.failures >= maxFailures:
		h.failures = 0
		k.small = true
		k.again(anyWay)
	case h.unheard >= maxUnheard && time.Since(k.replaced) >= replaceEvery && k.attempt == nil:
		k.replaced = time.Now()
		k.again(anyWay)
	}
}

// renewal is when the credentials are next to be renewed.
type renewal struct {
	busy bool
	at   time.Time // the edge's wish or a pause after a failure; zero for the credentials' own time
	not  time.Time // not before
}

// told takes the time after which the edge wants a renewal, 0 for none.
func (r *renewal) told(after time.Duration) {
	r.at = time.Time{}
	if after > 0 {
		r.at = time.Now().Add(after)
	}
}

// checkRenewal renews the credentials in band when it is time.
func (k *keeper) checkRenewal() {
	r, now := &k.renew, k.parts.wall()
	due := !now.Before(k.cfg.Credentials.RenewAt()) || !r.at.IsZero() && !time.Now().Before(r.at)
	if k.cur == nil || r.busy || !due || time.Now().Before(r.not) {
		return
	}
	r.busy = true
	c := k.cur
	k.beside(func(ctx context.Context) func() {
		err := renew(ctx, c, k.cfg.Credentials)
		return func() {
			r.busy, r.at = false, time.Time{}
			if err == nil {
				return
			}
			r.not = time.Now().Add(renewPause)
			if k.cur == c && !k.draining {
				k.reportConnected(fmt.Sprintf("the credentials, which end at %s, could not be renewed: %v", k.cfg.Credentials.Expires().UTC().Format(time.RFC3339), err))
			}
		}
	})
}

func renew(ctx context.Context, c carrier, own Credentials) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	csr, err := own.CSR()
	if err != nil {
		return err
	}
	chain, err := c.Renew(ctx, csr)
	if err != nil {
		return err
	}
	if len(chain) == 0 {
		return errors.New("the edge gave none")
	}
	return own.Install(chain)
}
