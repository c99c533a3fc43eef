package resolver

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

// InOrder asks one upstream after the other, until one has something to say: an answer, or that there is no such name. All of
// them are trusted alike.
type InOrder []Upstream

// Exchange implements [Upstream]. When none has anything to say, the last one's answer or error is returned.
func (u InOrder) Exchange(ctx context.Context, q *dns.Msg) (r *dns.Msg, err error) {
	err = errors.New("no upstream")
	for _, one := range u {
		if r, err = one.Exchange(ctx, q); err == nil && stub.Useful(r) {
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("ask upstreams: %w", ctx.Err())
		}
	}
	return r, err
}
