package stub

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

// Probe asks the host's nameservers for the root's own name servers, which every resolver knows, and reports whether any
// answered in time. It is what weir doctor does.
func (h *Host) Probe(ctx context.Context) error {
	q := new(dns.Msg)
	q.SetQuestion(".", dns.TypeNS)
	r, err := h.Exchange(ctx, q)
	if err != nil {
		return err
	}
	if r == nil {
		return errors.New("ask host resolvers: no answer")
	}
	if r.Rcode == dns.RcodeServerFailure {
		return fmt.Errorf("ask host resolvers: %s", dns.RcodeToString[r.Rcode])
	}
	return nil
}
