//go:build linux

package tunnel

import (
	"testing"
)

// TestManyFlows: two thousand flows at one time.
func TestManyFlows(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	h.connect(t, "a", "acme", "--allow", officeEcho.String()+":7")
	for _, door := range doors {
		s := echoing
		s.door = door
		said, log := h.probe(t, s, "many", "2000", echoAt)
		if said != "2000 of 2000" {
			seen := map[string]int{}
			for _, e := range log {
				if e.Event == "network-connect" {
					seen[e.Details["verdict"].(string)+" "+e.Details["reason"].(string)+" "+e.Details["rule"].(string)]++
				}
			}
			t.Errorf("%s: %s, %v", door, said, seen)
		}
	}
}
