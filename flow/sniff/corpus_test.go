package sniff

import (
	"cmp"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// The corpus is public captures, kept beside the repository: ../shared/corpus from its root. Here its first bytes are cut,
// joined and shuffled in every way that changes nothing about what they say; internal/capture grades the names in them.

// corpusFlow is what one side of a connection sent: a stream's first bytes, or datagrams in their order.
type corpusFlow struct {
	name      string
	stream    string
	datagrams []string
}

// corpusFlows reads every capture, or skips a test where there is none; a fuzz target goes without.
func corpusFlows(t testing.TB, proto layers.IPProtocol) (flows []corpusFlow) {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "corpus")
	if _, err := os.Stat(dir); err != nil {
		if _, fuzzing := t.(*testing.F); !fuzzing {
			t.Skipf("no corpus beside the repository: %v", err)
		}
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".pcap") {
			flows = append(flows, captureFlows(path, proto)...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return flows
}

// side is one direction of a connection while it is read.
type side struct {
	segments []segment
	first    uint32
	syn      bool
}

type segment struct {
	seq  uint32
	data string
}

// captureFlows reads the flows of one file that gopacket can take apart.
func captureFlows(path string, proto layers.IPProtocol) (flows []corpusFlow) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		return nil
	}
	sides, order := map[string]*side{}, []string{}
	for {
		data, _, err := r.ReadPacketData()
		if err != nil {
			break
		}
		p := gopacket.NewPacket(data, r.LinkType(), gopacket.Lazy)
		if p.NetworkLayer() == nil || p.TransportLayer() == nil {
			continue
		}
		key := fmt.Sprint(p.NetworkLayer().NetworkFlow(), " ", p.TransportLayer().TransportFlow())
		if sides[key] == nil {
			sides[key] = &side{}
			order = append(order, key)
		}
		sides[key].take(p.TransportLayer(), proto)
	}
	for _, key := range order {
		if flow := sides[key].flow(proto); flow.stream != "" || len(flow.datagrams) > 0 {
			flow.name = filepath.Base(path) + " " + key
			flows = append(flows, flow)
		}
	}
	return flows
}

func (s *side) take(l gopacket.TransportLayer, proto layers.IPProtocol) {
	switch l := l.(type) {
	case *layers.TCP:
		if l.SYN {
			s.first, s.syn = l.Seq+1, true
		}
		if proto == layers.IPProtocolTCP && len(l.Payload) > 0 {
			s.segments = append(s.segments, segment{l.Seq, string(l.Payload)})
		}
	case *layers.UDP:
		if proto == layers.IPProtocolUDP && len(l.Payload) > 0 {
			s.segments = append(s.segments, segment{data: string(l.Payload)})
		}
	}
}

// flow is what the side sent: all datagrams, or the beginning of the stream up to the first hole.
func (s *side) flow(proto layers.IPProtocol) (f corpusFlow) {
	if proto == layers.IPProtocolUDP {
		for _, seg := range s.segments {
			f.datagrams = append(f.datagrams, seg.data)
		}
		return f
	}
	if !s.syn && len(s.segments) > 0 {
		s.first = s.segments[0].seq
	}
	slices.SortStableFunc(s.segments, func(a, b segment) int { return cmp.Compare(a.seq-s.first, b.seq-s.first) })
	for _, seg := range s.segments {
		at := int(int32(seg.seq - s.first))
		if at < 0 || at > len(f.stream) || len(f.stream) >= MaxStream {
			continue
		}
		if end := at + len(seg.data); end > len(f.stream) {
			f.stream += seg.data[len(f.stream)-at:]
		}
	}
	return f
}

// opening is the shortest beginning of a stream that gives a final answer, and that answer; ok is false when there is
// none, or nothing in it.
func opening(stream string) (in string, want Hint, ok bool) {
	var s Stream
	for i := range len(stream) {
		hint, status := s.Feed([]byte(stream[i : i+1]))
		if status != More {
			return stream[:i+1], hint, status == Done
		}
	}
	return "", Hint{}, false
}

// handshakeOf joins the records of a TLS opening; ok is false when it is no such thing or not whole.
func handshakeOf(in string) (msg string, ok bool) {
	for len(in) > recordHeader && in[0] == 22 {
		n := recordHeader + int(in[3])<<8 + int(in[4])
		if n > len(in) {
			break
		}
		msg, in = msg+in[recordHeader:n], in[n:]
	}
	if len(msg) < 4 || msg[0] != typeClientHello {
		return "", false
	}
	n := 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
	return msg[:min(n, len(msg))], n <= len(msg)
}

// Every opening of the corpus says the same however TCP cuts it: at each place in two, byte by byte, at random.
func TestCorpusOpeningsCutAnywhere(t *testing.T) {
	counts := map[string]int{}
	random := rand.New(rand.NewPCG(3, 4))
	for _, f := range corpusFlows(t, layers.IPProtocolTCP) {
		in, want, ok := opening(f.stream)
		if !ok {
			continue
		}
		counts[want.Protocol]++
		for cut := range len(in) + 1 {
			hint, status := feed(in, cut)
			sameHint(t, fmt.Sprintf("%s cut at %d", f.name, cut), hint, status, want, Done)
		}
		for range 50 {
			cuts := make([]int, random.IntN(20))
			for i := range cuts {
				cuts[i] = random.IntN(len(in) + 1)
			}
			slices.Sort(cuts)
			hint, status := feed(in, cuts...)
			sameHint(t, fmt.Sprint(f.name, " cut at ", cuts), hint, status, want, Done)
		}
		hint, status := feed(f.stream)
		sameHint(t, f.name+" with what follows", hint, status, want, Done)
	}
	t.Logf("openings: %v", counts)
	if counts[ProtocolTLS] < 10 || counts[ProtocolHTTP] < 39 {
		t.Errorf("openings %v: the corpus has more", counts)
	}
}

// Every hello of the corpus says the same however it is cut into TLS records, and over QUIC, however it is cut into CRYPTO
// frames, packets and datagrams.
func TestCorpusHellosInRecordsAndFrames(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range corpusFlows(t, layers.IPProtocolTCP) {
		in, want, ok := opening(f.stream)
		msg, whole := handshakeOf(in)
		if !ok || !whole || want.Malformed != "" || seen[msg] {
			continue
		}
		seen[msg] = true
		recordsSayTheSame(t, f.name, msg, want)
		want.Protocol = ProtocolQUIC
		if want.Source != "" {
			want.Source = SourceQUICSNI
		}
		framesSayTheSame(t, f.name, msg, want)
	}
	t.Logf("%d hellos", len(seen))
	if len(seen) < 10 {
		t.Errorf("%d hellos: the corpus has more", len(seen))
	}
}

func recordsSayTheSame(t *testing.T, name, msg string, want Hint) {
	t.Helper()
	for cut := 1; cut < len(msg); cut++ {
		in := record(msg[:cut]) + record(msg[cut:])
		hint, status := feed(in, recordHeader+cut)
		sameHint(t, fmt.Sprintf("%s, records cut at %d", name, cut), hint, status, want, Done)
	}
	for _, in := range []string{record(msg), records(msg, 1), records(msg, 7), record(msg) + "\x14\x03\x03\x00\x01\x01"} {
		for _, cuts := range [][]int{nil, {1}, {5}, {6}, {len(in) / 2}} {
			hint, status := feed(in, cuts...)
			sameHint(t, name+", records", hint, status, want, Done)
		}
	}
	hint, status := feedBytes(records(msg, 1))
	sameHint(t, name+", records and segments of one octet", hint, status, want, Done)
}

// framesSayTheSame carries a hello over QUIC: in two parts cut at every octet, in every way that a client may send them.
func framesSayTheSame(t *testing.T, name, msg string, want Hint) {
	t.Helper()
	n := len(msg)
	seal := func(id string, number int64, frames string) string {
		return initial{dcid: id, number: number, octets: 1 + int(number%4), frames: frames, pad: 40}.seal(t)
	}
	for cut := 1; cut < n; cut += 1 + n/400 {
		a, b := crypto(msg, 0, cut), crypto(msg, cut, n)
		for i, datagrams := range [][]string{
			{seal(dcid, 0, b+"\x01"+a)},                                              // frames in the wrong order
			{seal(dcid, 3, "\x01\x00\x00"+a), seal(dcid, 7, "\x00\x01"+b)},           // PING and PADDING first, numbers that are not 0
			{seal(dcid, 9, b), seal(dcid, 2, a)},                                     // packets in the wrong order
			{seal(dcid, 1, b) + seal(dcid, 0, a)},                                    // coalesced, in the wrong order
			{seal(dcid, 0, a), seal(dcid, 0, a), seal(dcid, 1, b)},                   // the first one twice
			{seal(dcid, 0, a), seal("another1", 0, a), seal("another1", 1, b)},       // another first connection ID, after a Retry
			{seal(dcid, 0, "\x01"), seal(dcid, 1, a), "\x40short", seal(dcid, 2, b)}, // nothing, and something else, in between
		} {
			hint, status := feedDatagrams(datagrams...)
			sameHint(t, fmt.Sprintf("%s, CRYPTO cut at %d, way %d", name, cut, i), hint, status, want, Done)
		}
	}
}

// Every QUIC hello of the corpus says the same when its own datagrams come in another order or twice, and when it is cut
// and sealed anew.
func TestCorpusInitials(t *testing.T) {
	seen := 0
	for _, f := range corpusFlows(t, layers.IPProtocolUDP) {
		var q QUIC
		used := 0
		hint, status := Hint{}, More
		for status == More && used < len(f.datagrams) {
			hint, status = q.Feed([]byte(f.datagrams[used]))
			used++
		}
		if status != Done || hint.Source == "" && !strings.HasPrefix(hint.Malformed, "bad host") {
			continue
		}
		seen++
		first := f.datagrams[:used]
		for _, order := range permutations(first[:min(used, 5)]) {
			again, status := feedDatagrams(append(order, first[len(order):]...)...)
			sameHint(t, f.name+", permuted", again, status, hint, Done)
		}
		for i := range first {
			again, status := feedDatagrams(slices.Concat(first[:i+1], first[i:])...)
			sameHint(t, f.name+", doubled", again, status, hint, Done)
		}
		for _, a := range q.attempts {
			if msg := string(a.crypto.whole()); a.hello > 0 {
				framesSayTheSame(t, f.name, msg[:a.hello], hint)
				want := hint
				want.Protocol, want.Source = ProtocolTLS, SourceSNI
				recordsSayTheSame(t, f.name, msg[:a.hello], want)
			}
		}
	}
	t.Logf("%d connections", seen)
	if seen < 7 {
		t.Errorf("%d connections: the corpus has more", seen)
	}
}
