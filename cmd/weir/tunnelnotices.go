//go:build linux && !client

package main

import (
	"strconv"
	"strings"
	"sync"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
)

// userDenials says on stderr what the user's machine has denied, once for each destination. To this side's policy such a flow
// was allowed, so that no denial of its own tells the operator why nothing comes.
type userDenials struct {
	event.Sink
	notices *notices

	mu   sync.Mutex
	said map[string]bool
}

// deniedThere begins the error of a flow that a client has denied.
var deniedThere = (&tunnel.Error{Code: tunnel.Denied}).Error()

func (u *userDenials) Emit(e *event.Event) {
	u.Sink.Emit(e)
	d, ok := e.Details.(*event.Close)
	if !ok || !strings.HasPrefix(d.Error, deniedThere) {
		return
	}
	shown := d.Dst.String()
	if d.Hostname != "" {
		shown = d.Hostname + ":" + strconv.Itoa(int(d.Dst.Port()))
	}
	if !u.fresh(shown) {
		return
	}
	rule := "--allow " + shown
	if d.Hostname == tunnelHostName {
		rule = "--allow-loopback " + strconv.Itoa(int(d.Dst.Port()))
	}
	u.notices.say("the user's machine denied %s; allow it there with weir connect %s", shown, rule)
}

// fresh remembers the destination, up to a bound.
func (u *userDenials) fresh(shown string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.said[shown] || len(u.said) > maxNotices {
		return false
	}
	if u.said == nil {
		u.said = map[string]bool{}
	}
	u.said[shown] = true
	return true
}

// noClient is what mends a denial because nobody is connected; empty where that is not why.
func noClient(reason, rule string) string {
	if reason != "no-tunnel" || rule != "builtin:tunnel" {
		return ""
	}
	return "; no client of its space is connected: on the user's machine, weir connect --tunnel https://HOST:PORT"
}
