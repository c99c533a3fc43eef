package resolver

import (
	"context"
	"fmt"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

// Remote is an [Upstream] somewhere else: the resolver of the user's machine, beyond a tunnel. Whoever answers there is trusted
// for evidence of its own route and for nothing besides; an answer to something that was not asked is none.
type Remote struct {
	// Ask carries a DNS message there, and says what came back and who has answered.
	Ask func(ctx context.Context, message []byte) (answer []byte, by string, err error)
}

var _ Attributed = (*Remote)(nil)

// Exchange implements [Upstream].
func (r *Remote) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	answer, _, err := r.ExchangeBy(ctx, q)
	return answer, err
}

// ExchangeBy implements [Attributed].
func (r *Remote) ExchangeBy(ctx context.Context, q *dns.Msg) (*dns.Msg, string, error) {
	q = q.Copy()
	q.Id = dns.Id()
	raw, err := q.Pack()
	if err != nil {
		return nil, "", fmt.Errorf("pack question: %w", err)
	}
	raw, by, err := r.Ask(ctx, raw)
	if err != nil {
		return nil, "", fmt.Errorf("ask: %w", err)
	}
	answer, err := stub.AnswerTo(q, raw)
	if err != nil {
		return nil, "", fmt.Errorf("answer of %q: %w", by, err)
	}
	answer.Question = q.Question
	return answer, by, nil
}
