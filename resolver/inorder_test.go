package resolver

import (
	"context"
	"errors"
	"testing"

	"github.com/miekg/dns"
)

// fixed is an upstream with one answer.
type fixed struct {
	rcode int
	err   error
	asked *int
}

func (s fixed) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	*s.asked++
	if s.err != nil {
		return nil, s.err
	}
	r := new(dns.Msg)
	r.SetRcode(q, s.rcode)
	r.RecursionAvailable = true
	return r, nil
}

func TestInOrder(t *testing.T) {
	fails := errors.New("no answer")
	for _, c := range []struct {
		name  string
		list  []fixed
		asked int
		rcode int
		err   error
	}{
		{"the first knows", []fixed{{rcode: dns.RcodeSuccess}, {rcode: dns.RcodeServerFailure}}, 1, dns.RcodeSuccess, nil},
		{"the first knows that there is none", []fixed{{rcode: dns.RcodeNameError}, {rcode: dns.RcodeSuccess}}, 1, dns.RcodeNameError, nil},
		{"the first does not answer", []fixed{{err: fails}, {rcode: dns.RcodeSuccess}}, 2, dns.RcodeSuccess, nil},
		{"the first refuses", []fixed{{rcode: dns.RcodeRefused}, {rcode: dns.RcodeSuccess}}, 2, dns.RcodeSuccess, nil},
		{"none knows", []fixed{{err: fails}, {rcode: dns.RcodeServerFailure}}, 2, dns.RcodeServerFailure, nil},
		{"none answers", []fixed{{rcode: dns.RcodeServerFailure}, {err: fails}}, 2, 0, fails},
	} {
		asked := 0
		var list InOrder
		for _, s := range c.list {
			s.asked = &asked
			list = append(list, s)
		}
		q := new(dns.Msg)
		q.SetQuestion("a.example.", dns.TypeA)
		r, err := list.Exchange(t.Context(), q)
		if asked != c.asked || !errors.Is(err, c.err) || err == nil && r.Rcode != c.rcode {
			t.Errorf("%s: %d asked, %v, %v", c.name, asked, r, err)
		}
	}
	if _, err := (InOrder{}).Exchange(t.Context(), new(dns.Msg)); err == nil {
		t.Error("nobody answers, without an error")
	}
}
