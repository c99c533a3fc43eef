package edge

import (
	"cmp"
	"context"
	"hash/fnv"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// wish is what a client is chosen for.
type wish struct {
	space, via string
	names      []string       // in normal form
	to         netip.AddrPort // not valid for a DNS question
	sticky     string         // what always goes to the same client
}

func flowWish(o tunnel.Open) wish {
	what := o.Addr.Addr().String()
	if len(o.Names) > 0 {
		what = o.Names[0]
	}
	return wish{space: o.Space, via: o.Via, names: o.Names, to: o.Addr, sticky: o.Sandbox + " " + what}
}

func queryWish(q tunnel.Query) wish {
	w := wish{space: q.Space, via: q.Via, sticky: q.Sandbox}
	if name, ok := questionName(q.Message); ok {
		w.names, w.sticky = []string{name}, q.Sandbox+" "+name
	}
	return w
}

// Ranks of how a client covers what is wished. A name says more than an address: the one is why the other is dialled.
const (
	rankNone    = -1 // it advertises other things
	rankAny     = 0  // it advertises nothing, or everything
	rankAddress = 1  // and the bits of the prefix
	rankName    = 1000
)

// rank is how specifically a client's routes cover the wish.
func (w *wish) rank(routes []wire.Route) int {
	if len(routes) == 0 {
		return rankAny
	}
	best := rankNone
	for _, r := range routes {
		if !w.to.IsValid() {
			r.Ports = nil // a question has none
		}
		if r.Prefix.IsValid() {
			if bits, ok := r.Covers("", w.to); ok && w.to.IsValid() {
				best = max(best, addressRank(r.Prefix, bits))
			}
			continue
		}
		for _, name := range w.names {
			if labels, ok := r.Covers(name, w.to); ok {
				best = max(best, nameRank(labels))
			}
		}
		if len(w.names) == 0 && r.Suffix == "." {
			if _, ok := r.Covers(".", w.to); ok {
				best = max(best, rankAny)
			}
		}
	}
	return best
}

func addressRank(p netip.Prefix, bits int) int {
	switch {
	case bits == 0:
		return rankAny
	case p.Addr().Is4():
		return rankAddress + 96 + bits
	}
	return rankAddress + bits
}

func nameRank(labels int) int {
	if labels == 0 {
		return rankAny
	}
	return rankName + labels
}

// choose returns the session for a wish that is none of tried, nil where there is none, and whether there is another one.
func (r *registry) choose(w *wish, tried []*member) (best *member, others bool) {
	r.mu.Lock()
	candidates := r.candidates(w, tried)
	r.mu.Unlock()
	if len(candidates) == 0 {
		return nil, false
	}
	ranks := make(map[*member]int, len(candidates))
	if len(candidates) > 1 {
		for _, m := range candidates {
			ranks[m] = w.rank(m.Routes())
		}
	}
	best = slices.MinFunc(candidates, func(a, b *member) int {
		return cmp.Or(
			compareBool(a.suspect.Load(), b.suspect.Load()),
			cmp.Compare(ranks[b], ranks[a]),
			cmp.Compare(weight(b.who.Client, w.sticky), weight(a.who.Client, w.sticky)),
		)
	})
	return best, len(candidates) > 1
}

// candidates are the latest sessions of the clients that the wish may go to. The caller holds mu.
func (r *registry) candidates(w *wish, tried []*member) (list []*member) {
	members := r.space(w.space).members
	for i, m := range members {
		if w.via != "" && m.who.Client != w.via || slices.Contains(tried, m) || over(m) {
			continue
		}
		later := slices.ContainsFunc(members[i+1:], func(o *member) bool {
			return o.who == m.who && !slices.Contains(tried, o) && !over(o)
		})
		if !later {
			list = append(list, m)
		}
	}
	return list
}

func over(m *member) bool {
	select {
	case <-m.Done():
		return true
	default:
		return false
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// weight is the rendezvous hash: each pair has its own, and whoever has the greatest is chosen.
func weight(client, sticky string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, client)
	io.WriteString(h, "\x00")
	io.WriteString(h, sticky)
	x := h.Sum64() // whose low bits depend on the last letters most: mix
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// pingFresh is for how long an answer counts.
const pingFresh = time.Second

// answers reports whether the client's end of the session is there, asking it unless it has answered just now.
func (m *member) answers(ctx context.Context) bool {
	m.asking.Lock()
	defer m.asking.Unlock()
	if time.Since(m.heard) < pingFresh {
		return true
	}
	if _, err := m.Ping(ctx); err != nil {
		return false
	}
	m.heard = time.Now()
	return true
}

// doubt passes the session by until it answers again.
func (m *member) doubt() {
	if m.suspect.Swap(true) {
		return
	}
	go func() {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), parkFor)
			heard := m.answers(ctx)
			cancel()
			if heard || over(m) {
				m.suspect.Store(false)
				return
			}
			select {
			case <-m.Done():
			case <-time.After(pingFresh):
			}
		}
	}()
}

// questionName returns the name of a DNS message's first question in normal form (RFC 1035 section 4.1.2): lower case, without
// the last dot. It is hostile; nothing but the choice of a client depends on it.
func questionName(m []byte) (string, bool) {
	const header = 12
	if len(m) < header || m[4] == 0 && m[5] == 0 {
		return "", false
	}
	var name strings.Builder
	for b := m[header:]; len(b) > 0; {
		n := int(b[0])
		switch {
		case n == 0:
			return strings.ToLower(name.String()), name.Len() > 0
		case n > 63 || len(b) < 1+n || name.Len()+n > 253:
			return "", false
		}
		if name.Len() > 0 {
			name.WriteByte('.')
		}
		name.Write(b[1 : 1+n])
		b = b[1+n:]
	}
	return "", false
}
