package resolver

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"
	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/internal/stub"
)

// What one sandbox may ask about one registrable domain. A question reaches whoever runs the domain's nameservers, so what
// is asked below an allowed *.suffix is a way out for data; docs/threats.md ("DNS as a way out") has the bandwidth that is left.
//
// An installer asks for one name, twice per connection; a browser for some hundred a minute, of many domains. The content
// networks that put a hash into each name stay below a few hundred an hour.
const (
	// BudgetRate is how many questions a second are sent on the long run, BudgetBurst how many at once.
	BudgetRate, BudgetBurst = 100, 2000

	// BudgetWindow is the time that the two following are for. It begins with the domain's first question.
	BudgetWindow = time.Hour

	// BudgetQuestions is how many different questions are sent: name, type and flags.
	BudgetQuestions = 2000

	// BudgetOctets is how many octets the questions may carry out: what [cost] says each one does.
	BudgetOctets = 64 << 10

	// DeniedRate and DeniedBurst are for questions that the policy does not let out, of all domains together. They tell
	// nobody anything; above it the program is told so and the alert is written.
	DeniedRate, DeniedBurst = 200, 2000

	// maxDomains is how many domains have a budget of their own; all others share one. maxQuestions is how many questions
	// are remembered in all; beyond it a new question is refused.
	maxDomains   = 8192
	maxQuestions = 1 << 16
)

// The rules that an event names when a question was refused for the budget, and what the alert calls those that have no
// domain of their own.
const (
	ruleQueries   = "builtin:dns-queries"
	ruleNames     = "builtin:dns-names"
	ruleOctets    = "builtin:dns-octets"
	otherDomains  = "(other domains)"
	deniedDomains = "(denied names)"
)

// budget is what one sandbox has asked in the last hour, by registrable domain. The zero value is ready.
type budget struct {
	mu        sync.Mutex
	seed      maphash.Seed
	domains   map[string]*spending
	questions int // remembered, of all domains
}

// spending is what was asked about one domain since its window began.
type spending struct {
	rate    *rate.Limiter
	since   time.Time
	asked   map[uint64]struct{} // hashes under a secret seed: nobody can make two questions count as one
	bits    int                 // what the questions have carried out
	alerted bool
}

// spend takes a question to domain out of its budget. over is the rule that refuses it, "" if none does; alert says that
// this is the first refusal of the window. extra are octets that leave beside name, type and flags.
func (b *budget) spend(domain string, q dns.Question, flags uint8, extra int) (over, subject string, alert bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s, subject := b.of(domain, now, BudgetRate, BudgetBurst)
	h := b.hash(q, flags)
	_, known := s.asked[h]
	spent := s.bits + cost(q.Name, known, len(s.asked)) + 8*extra
	switch {
	case !s.rate.AllowN(now, 1):
		over = ruleQueries
	case !known && (len(s.asked) >= BudgetQuestions || b.questions >= maxQuestions):
		over = ruleNames
	case spent > 8*BudgetOctets:
		over = ruleOctets
	default:
		s.bits = spent
		if !known {
			s.asked[h] = struct{}{}
			b.questions++
		}
		return "", subject, false
	}
	return over, subject, s.first()
}

// denied counts a question that does not leave.
func (b *budget) denied() (over, subject string, alert bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s, subject := b.of(deniedDomains, now, DeniedRate, DeniedBurst)
	if s.rate.AllowN(now, 1) {
		return "", subject, false
	}
	return ruleQueries, subject, s.first()
}

// first reports whether nobody was told yet, and remembers it.
func (s *spending) first() bool {
	told := s.alerted
	s.alerted = true
	return !told
}

// of returns the spending of a domain in its present window. The caller holds the lock.
func (b *budget) of(domain string, now time.Time, perSecond rate.Limit, burst int) (*spending, string) {
	if b.domains == nil {
		b.domains, b.seed = map[string]*spending{}, maphash.MakeSeed()
	}
	s := b.domains[domain]
	if s == nil && len(b.domains) >= maxDomains && domain != otherDomains && domain != deniedDomains {
		if b.forget(now); len(b.domains) >= maxDomains {
			return b.of(otherDomains, now, perSecond, burst)
		}
	}
	if s == nil {
		s = &spending{rate: rate.NewLimiter(perSecond, burst)}
		b.domains[domain] = s
	}
	if s.asked == nil || now.Sub(s.since) >= BudgetWindow {
		b.questions -= len(s.asked)
		s.since, s.asked, s.bits, s.alerted = now, map[uint64]struct{}{}, 0, false
	}
	return s, domain
}

// forget drops the domains whose window is over. The caller holds the lock.
func (b *budget) forget(now time.Time) {
	for domain, s := range b.domains {
		if now.Sub(s.since) >= BudgetWindow {
			b.questions -= len(s.asked)
			delete(b.domains, domain)
		}
	}
}

func (b *budget) hash(q dns.Question, flags uint8) uint64 {
	return maphash.Comparable(b.seed, struct {
		name  string
		qtype uint16
		flags uint8
	}{dns.CanonicalName(q.Name), q.Qtype, flags})
}

// cost is how many bits a question carries out. A new one carries its name and its type. One that was asked before carries
// only which of so many it is: a program that asks anew for each of its connections to one name says nothing by it.
func cost(name string, known bool, asked int) int {
	if known {
		return bits.Len(uint(asked - 1))
	}
	return 8 * (len(name) + 2)
}

// flagsOf are the bits of the client's message that go along; see ask.
func flagsOf(q *dns.Msg) (f uint8) {
	opt := q.IsEdns0()
	for i, set := range []bool{q.CheckingDisabled, q.AuthenticatedData, opt != nil, opt != nil && opt.Do()} {
		if set {
			f |= 1 << i
		}
	}
	return f
}

// extraOf are the octets of a watched message beside its question. Such messages pass as they are, so their ID, the case of
// the letters and what else is in them leaves as well.
func extraOf(q *dns.Msg, raw []byte) int {
	const id, typeAndClass, opt = 2, 4, 11
	name := len(q.Question[0].Name) + 1
	plain := headerLen + name + typeAndClass
	if q.IsEdns0() != nil {
		plain += opt
	}
	return id + name/8 + max(0, len(raw)-plain)
}

// registrable is the domain below which all names are one owner's. Suffixes of the list's private section (github.io) are
// owned by somebody, and share the budget of what they are registered as: a program that may ask below one of them would
// have as many budgets as it can invent names. Names outside the list: the last two labels.
func registrable(name string) string {
	suffix, icann := publicsuffix.PublicSuffix(name)
	for !icann && strings.Contains(suffix, ".") {
		_, suffix, _ = strings.Cut(suffix, ".")
		suffix, icann = publicsuffix.PublicSuffix(suffix)
	}
	below, found := strings.CutSuffix(name, "."+suffix)
	if !found {
		return name
	}
	return below[strings.LastIndexByte(below, '.')+1:] + "." + suffix
}

// charge takes a question that is about to leave out of the budget. A refusal is v, changed: a denial where a policy is
// enforced, a note where none is.
func (s *Server) charge(name asked, q *dns.Msg, v Verdict, extra int) Verdict {
	s.countType(q.Question[0].Qtype)
	over, subject, alert := s.budget.spend(registrable(name.full), q.Question[0], flagsOf(q), extra)
	if over == "" {
		return v
	}
	s.counters.overBudget.Add(1)
	if alert {
		s.alert(subject)
	}
	v.Allow, v.WouldDeny, v.Rule, v.Reason = !s.Enforce, !s.Enforce, over, "limit"
	return v
}

// chargeDenied counts a question that the policy keeps, and returns the verdict that is left of v.
func (s *Server) chargeDenied(v Verdict) Verdict {
	over, subject, alert := s.budget.denied()
	if over == "" {
		return v
	}
	s.counters.overBudget.Add(1)
	if alert {
		s.alert(subject)
	}
	return Verdict{Rule: over, Reason: "limit", Route: v.Route}
}

func (s *Server) alert(subject string) {
	if s.Alert != nil {
		s.Alert(subject)
	}
}

// countType counts the types that tunnels over DNS like, because their answers carry most. They are not refused: mail,
// certificates and service discovery need them. Nor is the look of a name: names of content networks look as random as
// stolen data in base32, and data in words does not.
func (s *Server) countType(qtype uint16) {
	switch qtype {
	case dns.TypeTXT, dns.TypeNULL, dns.TypeANY:
		s.counters.bulky.Add(1)
	}
}

// refusedAnswer is the answer to a question above the budget.
func refusedAnswer(q *dns.Msg) *dns.Msg {
	return explain(stub.Reply(q, dns.RcodeRefused), dns.ExtendedErrorCodeProhibited, "too many questions")
}
