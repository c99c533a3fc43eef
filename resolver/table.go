package resolver

import (
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// table binds names to addresses within bounds. It forgets what expired, then the address that was used least recently;
// the entries of held addresses are not on the list of those that may go. The memory's lock guards it.
type table struct {
	limits  Limits
	entries map[key]*entry
	routes  map[netip.Addr][]key // the keys of an address, one per route
	idle    *list.List           // of *entry, most recently used first; held ones are not on it
	names   int
	octets  int // of the bindings, see size

	evicted, refused uint64
}

type key struct {
	route string
	addr  netip.Addr
}

type entry struct {
	key      key
	bindings []binding // oldest first
	elem     *list.Element

	// What recall hands out, made again when a binding came or went.
	fresh         bool
	next          time.Time // the first expiry among the bindings
	names, chains []string
}

type binding struct {
	name  string
	chain []string
	until time.Time
}

// bindingOverhead is what a binding or a chain member counts beside its text, in octets.
const bindingOverhead = 64

// size is what a binding counts against the bound in octets.
func (b binding) size() int {
	n := bindingOverhead + len(b.name)
	for _, c := range b.chain {
		n += bindingOverhead + len(c)
	}
	return n
}

func newTable(l Limits) *table {
	return &table{limits: l, entries: map[key]*entry{}, routes: map[netip.Addr][]key{}, idle: list.New()}
}

// bind adds or renews one binding.
func (t *table) bind(k key, b binding, now time.Time, held bool) {
	e := t.entries[k]
	if e == nil {
		if !t.room(nil, 0, 0) {
			t.refused++
			return
		}
		e = t.open(k, held)
	} else {
		t.touch(e)
		if !held {
			t.expire(e, now)
		}
	}
	e.fresh = false
	if i := slices.IndexFunc(e.bindings, func(o binding) bool { return o.name == b.name }); i >= 0 {
		old := e.bindings[i]
		b.chain = t.union(old.chain, b.chain)
		if old.until.After(b.until) {
			b.until = old.until
		}
		if more := b.size() - old.size(); more > 0 && !t.room(e, 0, more) {
			t.refused++
			b.chain = old.chain
		}
		t.octets += b.size() - old.size()
		e.bindings = append(slices.Delete(e.bindings, i, i+1), b)
		return
	}
	b.chain = t.union(nil, b.chain)
	switch {
	case len(e.bindings) < t.limits.NamesPerAddress:
	case held:
		t.refused++
		return
	default:
		t.octets -= e.bindings[0].size()
		e.bindings = slices.Delete(e.bindings, 0, 1)
		t.names--
		t.evicted++
	}
	if !t.room(e, 1, b.size()) {
		t.refused++
		t.dropIfEmpty(e)
		return
	}
	e.bindings = append(e.bindings, b)
	t.names++
	t.octets += b.size()
}

// room makes place for one more address (keep nil) or for so many names and octets beside keep, from the end of the idle list.
func (t *table) room(keep *entry, names, octets int) bool {
	for {
		if keep == nil && len(t.entries) < t.limits.Addresses ||
			keep != nil && t.names+names <= t.limits.Names && t.octets+octets <= t.limits.Octets {
			return true
		}
		last := t.idle.Back()
		if last != nil && keep != nil && last.Value == keep {
			last = last.Prev()
		}
		if last == nil {
			return false
		}
		t.evicted += uint64(len(last.Value.(*entry).bindings))
		t.drop(last.Value.(*entry))
	}
}

func (t *table) open(k key, held bool) *entry {
	e := &entry{key: k}
	t.entries[k] = e
	t.routes[k.addr] = append(t.routes[k.addr], k)
	if !held {
		e.elem = t.idle.PushFront(e)
	}
	return e
}

func (t *table) drop(e *entry) {
	t.names -= len(e.bindings)
	for _, b := range e.bindings {
		t.octets -= b.size()
	}
	e.bindings = nil
	delete(t.entries, e.key)
	if e.elem != nil {
		t.idle.Remove(e.elem)
		e.elem = nil
	}
	rest := slices.DeleteFunc(t.routes[e.key.addr], func(k key) bool { return k == e.key })
	if t.routes[e.key.addr] = rest; len(rest) == 0 {
		delete(t.routes, e.key.addr)
	}
}

func (t *table) dropIfEmpty(e *entry) {
	if len(e.bindings) == 0 {
		t.drop(e)
	}
}

func (t *table) touch(e *entry) {
	if e.elem != nil {
		t.idle.MoveToFront(e.elem)
	}
}

// expire takes the dead bindings out of an entry that no flow holds.
func (t *table) expire(e *entry, now time.Time) {
	before := len(e.bindings)
	e.bindings = slices.DeleteFunc(e.bindings, func(b binding) bool {
		dead := !now.Before(b.until)
		if dead {
			t.octets -= b.size()
		}
		return dead
	})
	if n := before - len(e.bindings); n > 0 {
		t.names -= n
		e.fresh = false
	}
}

func (t *table) recall(k key, now time.Time, held bool) (names, chains []string) {
	e := t.entries[k]
	if e == nil {
		return nil, nil
	}
	t.touch(e)
	if !held && (!e.fresh || !now.Before(e.next)) {
		t.expire(e, now)
		if len(e.bindings) == 0 {
			t.drop(e)
			return nil, nil
		}
	}
	if !e.fresh {
		e.refresh()
	}
	return e.names, e.chains
}

// refresh makes the slices that recall hands out. They are new ones each time: the old may still be read.
func (e *entry) refresh() {
	e.names, e.chains, e.fresh = make([]string, 0, len(e.bindings)), nil, true
	seen := map[string]bool{}
	for i, b := range e.bindings {
		if e.names = append(e.names, b.name); i == 0 || b.until.Before(e.next) {
			e.next = b.until
		}
		for _, c := range b.chain {
			if !seen[c] {
				seen[c] = true
				e.chains = append(e.chains, c)
			}
		}
	}
	e.names, e.chains = slices.Clip(e.names), slices.Clip(e.chains)
}

func (t *table) hold(addr netip.Addr, now time.Time) {
	for _, k := range slices.Clone(t.routes[addr]) {
		e := t.entries[k]
		if t.expire(e, now); len(e.bindings) == 0 {
			t.drop(e)
			continue
		}
		t.idle.Remove(e.elem)
		e.elem = nil
	}
}

func (t *table) release(addr netip.Addr) {
	for _, k := range t.routes[addr] {
		e := t.entries[k]
		e.elem = t.idle.PushFront(e)
		e.fresh = false // what expired while it was held goes at the next recall
	}
}

// union keeps each member once, the newer ones when there are too many.
func (t *table) union(old, add []string) []string {
	u := slices.Clone(old)
	for _, c := range add {
		if !slices.Contains(u, c) {
			u = append(u, c)
		}
	}
	if over := len(u) - t.limits.Chain; over > 0 {
		t.evicted += uint64(over)
		u = u[over:]
	}
	return slices.Clip(u)
}
