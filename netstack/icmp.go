package netstack

import "github.com/weir-dev/weir/flow"

// installICMP hands ICMP flows to h.
func (s *Stack) installICMP(h flow.Handler) {}
