package resolver

import (
	"context"

	"github.com/miekg/dns"
)

// Down is an [Upstream] that is not there: every question fails with Err, and none is asked elsewhere.
type Down struct{ Err error }

// Exchange returns Err.
func (d Down) Exchange(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, d.Err }
