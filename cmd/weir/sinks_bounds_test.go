//go:build linux && !client

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/flow/event"
)

// TestLearnerIsBounded: what is done again takes no more room, and what does not fit is said.
func TestLearnerIsBounded(t *testing.T) {
	l := &learner{}
	connect := func(host string, names ...string) {
		l.Emit(&event.Event{Time: time.Now(), App: "a", Details: &event.Connect{Hostname: host, NameSource: "dns", Names: names,
			Dst: netip.MustParseAddrPort("192.0.2.1:443"), Protocol: "tcp", Route: "direct", Verdict: "allow"}})
	}
	for range 3 {
		connect("api.example")
	}
	if len(l.observed) != 1 || l.observed[0].Count != 3 {
		t.Fatalf("%d kept: %+v", len(l.observed), l.observed)
	}
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("n%d.%s.%s.%s.example", i, strings.Repeat("x", 60), strings.Repeat("y", 60), strings.Repeat("z", 60)))
	}
	for i := range 3000 {
		connect(fmt.Sprintf("n%d.example", i), names...)
	}
	if l.octets > maxObservedOctets || l.lost == 0 || len(l.observed)+l.lost != 3001 {
		t.Errorf("%d octets, %d kept, %d lost", l.octets, len(l.observed), l.lost)
	}
	if text := l.policy(dataPathConfig{App: "a"}); !strings.Contains(text, fmt.Sprint(l.lost, " more flows")) {
		t.Errorf("the policy does not say so: %.200s", text)
	}
}

// TestFirstSeenIsBounded: hosts without end are not remembered without end.
func TestFirstSeenIsBounded(t *testing.T) {
	alerts := 0
	f := newFirstSeen(nil, func(string) { alerts++ })
	for i := range maxFirstSeen + 500 {
		f.Emit(&event.Event{Details: &event.Connect{Hostname: fmt.Sprintf("n%d.example", i), Verdict: "allow"}})
	}
	if len(f.known) != maxFirstSeen || len(f.fresh()) != maxFirstSeen || alerts != maxFirstSeen {
		t.Errorf("%d known, %d new, %d alerts", len(f.known), len(f.fresh()), alerts)
	}
}
