package capture

import (
	"cmp"
	"container/list"
	"fmt"
	"io"
	"slices"

	"github.com/weir-dev/weir/flow/event"
)

// Stats says what was read and what was left out.
type Stats struct {
	// Frames is the number of records read, Flows and Queries the number of events they led to.
	Frames, Flows, Queries uint64

	// Undecoded counts frames without a packet that could be used (ARP, damaged headers, unknown tunnels), Unsupported
	// those of a link type that is not known; LinkType is the number of the last such.
	Undecoded, Unsupported uint64
	LinkType               uint32

	// Fragments counts fragments that did not become part of a whole datagram, Evicted flows that were reported before their claim
	// was known because a bound was reached.
	Fragments, Evicted uint64
}

// Read reads the capture to its end and hands an event for every flow and DNS question in it to sink, on the calling
// goroutine. It returns nil at the regular end of the file. Any other error says where in the file it is; what was read
// until there was reported all the same. A file of which no frame has a link type that is known is an error too.
func Read(r io.Reader, sink event.Sink) (Stats, error) {
	var stats Stats
	f, err := openFile(r)
	if err != nil {
		return stats, err
	}
	t := &table{
		sink:  sink,
		stats: &stats,
		flows: make(map[flowKey]*list.Element),
		asked: questions{sink: sink, stats: &stats, open: make(map[questionKey]*list.Element)},
	}
	d := &decoder{deliver: t.deliver, stats: &stats, fragments: fragments{stats: &stats}}
	var fr frame
	for err = f.next(&fr); err == nil; err = f.next(&fr) {
		stats.Frames++
		d.frame(&fr)
	}
	t.end()
	switch {
	case err != io.EOF:
		return stats, err
	case stats.Frames > 0 && stats.Unsupported == stats.Frames:
		return stats, fmt.Errorf("decode frames: link type %d is not supported", stats.LinkType)
	}
	return stats, nil
}

// deliver hands a packet to the flow it belongs to.
func (t *table) deliver(p packet) {
	switch p.proto {
	case protoTCP:
		if s, ok := tcp(p); ok {
			t.segment(s)
			return
		}
		t.stats.Undecoded++
	case protoUDP:
		t.udp(p)
	default:
		t.icmp(p)
	}
}

func sortByID(flows []*flow) {
	slices.SortFunc(flows, func(a, b *flow) int { return cmp.Compare(a.id, b.id) })
}
