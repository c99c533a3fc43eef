package capture

import (
	"container/list"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
)

// MaxQuestions is the number of DNS questions that are remembered, to join them with their answers.
const MaxQuestions = 8192

// askAgain is when, in the time of the capture, the same question with the same ID from the same port is a new one and not
// a copy: resolvers have given up by then.
const askAgain = 10 * time.Second

type questionKey struct {
	proto          uint8
	client, server netip.AddrPort
	id             uint16
	name           string
	qtype          uint16
}

type question struct {
	key      questionKey
	at       time.Time
	reported bool
}

// questions joins DNS questions with their answers and reports each pair once. Copies of either are ignored.
type questions struct {
	sink   event.Sink
	stats  *Stats
	open   map[questionKey]*list.Element
	oldest list.List // of *question
}

// ask takes a question.
func (q *questions) ask(key questionKey, at time.Time) {
	if e := q.open[key]; e != nil {
		if at.Sub(e.Value.(*question).at).Abs() < askAgain {
			return
		}
		q.remove(e)
	}
	q.add(&question{key: key, at: at})
}

// answer takes the answer to a question, or, where that was not captured, for one.
func (q *questions) answer(key questionKey, at time.Time, rcode string, answers []string) {
	e := q.open[key]
	if e == nil {
		e = q.add(&question{key: key, at: at})
	}
	if o := e.Value.(*question); !o.reported {
		q.report(o, rcode, answers, max(at.Sub(o.at), 0))
	}
}

// end reports the questions that stayed without an answer.
func (q *questions) end() {
	for e := q.oldest.Front(); e != nil; e = q.oldest.Front() {
		q.remove(e)
	}
}

func (q *questions) add(o *question) *list.Element {
	if q.oldest.Len() >= MaxQuestions {
		q.remove(q.oldest.Front())
	}
	e := q.oldest.PushBack(o)
	q.open[o.key] = e
	return e
}

func (q *questions) remove(e *list.Element) {
	o := q.oldest.Remove(e).(*question)
	delete(q.open, o.key)
	if !o.reported {
		q.report(o, "", nil, 0)
	}
}

func (q *questions) report(o *question, rcode string, answers []string, took time.Duration) {
	o.reported = true
	q.stats.Queries++
	q.sink.Emit(&event.Event{Time: o.at, Details: &event.DNSQuery{
		Hostname: o.key.name,
		QType:    dns.Type(o.key.qtype).String(),
		Server:   o.key.server.String(),
		RCode:    rcode,
		Answers:  answers,
		Duration: took,
	}})
}
