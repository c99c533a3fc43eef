package netstack

import "github.com/weir-dev/weir/flow"

// installUDP hands UDP flows to h.
func (s *Stack) installUDP(h flow.Handler) {}
