//go:build linux

package handoff

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/testnet"
	"github.com/weir-dev/weir/tunnel"
)

// TestHostileDataPath: a data path that does not keep to the format is cut off, at once, and holds nothing any more.
func TestHostileDataPath(t *testing.T) {
	open := (&message{kind: kindOpenStream, id: 7, open: tunnel.Open{Addr: destination}}).encode(nil)
	zoned := tunnel.Open{Addr: netip.AddrPortFrom(netip.MustParseAddr("fe80::1%eth0"), 1)}
	for name, messages := range map[string][][]byte{
		"an id again":            {open, open},
		"an id that falls":       {open, (&message{kind: kindQuery, id: 6}).encode(nil)},
		"no kind":                {make([]byte, headSize)},
		"the edge's own message": {(&message{kind: kindOpened, id: 1}).encode(nil)},
		"too short":              {{1, 2, 3}},
		"too long":               {make([]byte, maxMessage+1)},
		"cut off":                {open[:len(open)-1]},
		"something behind":       {append(append([]byte(nil), open...), 0)},
		"an address with a zone": {(&message{kind: kindOpenStream, id: 1, open: zoned}).encode(nil)},
		"no address":             {(&message{kind: kindOpenStream, id: 1}).encode(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			c := &fakeClient{stream: func(ctx context.Context, _ tunnel.Open) (tunnel.Stream, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}}
			e := newEdge(t, c, Options{}, false)
			for _, m := range messages {
				if _, err := e.raw.Write(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-e.served; !errors.Is(err, errMalformed) {
				t.Errorf("served until %v", err)
			}
			if e.counters.Malformed.Load() != 1 {
				t.Error("it was not counted")
			}
		})
	}
}

// TestRefusedDescriptors: descriptors that a data path sends do not come to the edge. That none is open any more is checked at
// the end of the test.
func TestRefusedDescriptors(t *testing.T) {
	c := &fakeClient{query: func(context.Context, tunnel.Query) ([]byte, error) { return []byte("answer"), nil }}
	e := newEdge(t, c, Options{}, false)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := openFiles(t)
	m := (&message{kind: kindQuery, id: 1}).encode(nil)
	if _, _, err := e.raw.WriteMsgUnix(m, unix.UnixRights(int(null.Fd()), int(null.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, maxMessage)
	if n, err := e.raw.Read(b); err != nil || !strings.HasSuffix(string(b[:n]), "answer") {
		t.Errorf("the answer is %q, %v", b[:n], err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors are open, want %d", after, before)
	}
}

// TestBounds: what is over a bound is refused and counted, and there is room again when something has ended.
func TestBounds(t *testing.T) {
	c := &fakeClient{}
	e := newEdge(t, c, Options{Streams: 2, Datagrams: 1, Opening: 3}, true)
	one, _, _ := e.open(t, c)
	e.open(t, c)
	if _, err := e.OpenStream(t.Context(), tunnel.Open{Addr: destination}); tunnel.CodeOf(err) != tunnel.Limit {
		t.Errorf("the third stream: %v", err)
	}
	e.openDatagrams(t, c, newFakeDatagrams())
	if _, err := e.OpenDatagrams(t.Context(), tunnel.Open{Addr: destination}); tunnel.CodeOf(err) != tunnel.Limit {
		t.Errorf("the second UDP flow: %v", err)
	}
	one.Abort(tunnel.Reset)
	for { // its end is known on the other side a moment later
		near, far := testnet.Pair()
		defer far.Close()
		c.onStream(func(context.Context, tunnel.Open) (tunnel.Stream, error) { return newFakeStream(near), nil })
		s, err := e.OpenStream(t.Context(), tunnel.Open{Addr: destination})
		if err == nil {
			defer s.Close()
			break
		}
		if tunnel.CodeOf(err) != tunnel.Limit {
			t.Fatal(err)
		}
	}
	waits := make(chan struct{})
	asked := make(chan struct{}, 3)
	c.onQuery(func(context.Context, tunnel.Query) ([]byte, error) {
		asked <- struct{}{}
		<-waits
		return nil, nil
	})
	for range 3 {
		go e.Query(context.Background(), tunnel.Query{})
	}
	for range 3 {
		<-asked
	}
	if _, _, err := e.Query(t.Context(), tunnel.Query{}); tunnel.CodeOf(err) != tunnel.Limit {
		t.Errorf("the fourth query: %v", err)
	}
	close(waits)
	if e.counters.Limited.Load() < 3 {
		t.Errorf("%d were counted", e.counters.Limited.Load())
	}
}

// TestStuckDataPath: a data path that asks and does not read is cut off.
func TestStuckDataPath(t *testing.T) {
	c := &fakeClient{query: func(_ context.Context, q tunnel.Query) ([]byte, error) { return make([]byte, maxQuery), nil }}
	e := newEdge(t, c, Options{Patience: 50 * time.Millisecond}, false)
	for id := uint64(1); ; id++ {
		e.raw.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := e.raw.Write((&message{kind: kindQuery, id: id}).encode(nil)); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := <-e.served; err == nil || e.counters.Stuck.Load() == 0 {
		t.Errorf("served until %v, %d stuck", err, e.counters.Stuck.Load())
	}
}

// TestQuery carries a DNS message of the largest size both ways.
func TestQuery(t *testing.T) {
	c := &fakeClient{query: func(_ context.Context, q tunnel.Query) ([]byte, error) {
		if q.Owner != me || q.Via != "laptop" {
			t.Errorf("asked by %v via %q", q.Owner, q.Via)
		}
		return q.Message, nil
	}}
	e := newEdge(t, c, Options{}, true)
	question := make([]byte, maxQuery)
	question[maxQuery-1] = 1
	answer, by, err := e.Query(t.Context(), tunnel.Query{Via: "laptop", Message: question})
	if err != nil || by != client || !reflect.DeepEqual(answer, question) {
		t.Errorf("%d octets by %v, %v", len(answer), by, err)
	}
	if _, _, err := e.Query(t.Context(), tunnel.Query{Message: make([]byte, maxQuery+1)}); tunnel.CodeOf(err) != tunnel.Malformed {
		t.Errorf("too long a question: %v", err)
	}
	e.stop()
	<-e.Done()
	if _, _, err := e.Query(t.Context(), tunnel.Query{Message: question}); tunnel.CodeOf(err) != tunnel.NoClient || e.Err() == nil {
		t.Errorf("without an edge: %v, %v", err, e.Err())
	}
}

// TestHostileBatches: a UDP flow whose data path sends what is no batch is ended.
func TestHostileBatches(t *testing.T) {
	for name, b := range map[string][]byte{
		"cut off":       {recordBatch, 0, 2, 1},
		"half a length": {recordBatch, 0},
		"a notice":      encodeLargest(nil, 1),
		"unknown":       {99},
	} {
		t.Run(name, func(t *testing.T) {
			c, f := &fakeClient{}, newFakeDatagrams()
			e := newEdge(t, c, Options{}, true)
			d := e.openDatagrams(t, c, f)
			d.c.Write(b)
			if _, err := d.Receive(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Malformed {
				t.Errorf("the flow ended with %v", err)
			}
			<-f.closed
		})
	}
}

// FuzzMessage: what is decoded reads the same when it is encoded again; nothing is longer than its bound.
func FuzzMessage(f *testing.F) {
	o := tunnel.Open{Flow: "7f3a9c-12", Addr: destination, Names: []string{"a.example", "b.example"}, Via: "laptop"}
	for k := kind(0); k <= kinds; k++ {
		f.Add((&message{kind: k, id: 3, open: o, body: []byte("body"), code: tunnel.Denied, text: "rule 3", by: client, limit: 1195}).encode(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		if len(m.open.Names) > tunnel.MaxNames || len(m.text) > tunnel.MaxText || len(m.body) > maxQuery {
			t.Fatalf("%+v is over a bound", m)
		}
		again, err := decode(m.encode(nil))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v reads %+v, %v", m, again, err)
		}
	})
}

// FuzzRecords: a batch is datagrams and nothing else.
func FuzzRecords(f *testing.F) {
	b, _ := appendDatagram(nil, []byte("x"))
	b, _ = appendDatagram(b, nil)
	f.Add(b)
	f.Add(encodeLargest(nil, 1195))
	f.Add(encodeEnd(nil, tunnel.Errorf(tunnel.Refused, "no")))
	f.Add(binary.BigEndian.AppendUint16([]byte{recordBatch}, 65535))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		if largest, _, err := decodeNotice(b); err == nil && (b[0] == recordBatch || largest < 0 || largest > maxDatagram) {
			t.Fatalf("%q is no notice", b)
		}
		list, err := splitBatch(nil, b[1:])
		again := []byte{b[0]}
		for _, d := range list {
			again = append(binary.BigEndian.AppendUint16(again, uint16(len(d))), d...)
		}
		if err == nil && string(again) != string(b) {
			t.Fatalf("%q became %q", b, again)
		}
	})
}

// TestManyFlows opens as many flows as there may be, carries a little over each, both ways, and leaves nothing behind.
func TestManyFlows(t *testing.T) {
	const flows = 2000
	c := &fakeClient{}
	e := newEdge(t, c, Options{Opening: flows}, true)
	c.onStream(func(context.Context, tunnel.Open) (tunnel.Stream, error) {
		near, far := testnet.Pair()
		go func() {
			io.Copy(far, far)
			far.CloseWrite()
		}()
		return newFakeStream(near), nil
	})
	all := make(chan *Stream, flows)
	var opening sync.WaitGroup
	for range flows {
		opening.Go(func() {
			s, err := e.OpenStream(t.Context(), tunnel.Open{Addr: destination})
			if err != nil {
				t.Error(err)
				return
			}
			all <- s.(*Stream)
		})
	}
	opening.Wait()
	close(all)
	if n := e.counters.Streams.Load(); n != flows {
		t.Errorf("%d flows are open", n)
	}
	var ending sync.WaitGroup
	for s := range all {
		ending.Go(func() {
			defer s.Close()
			io.WriteString(s, "hello")
			s.CloseWrite()
			if b, err := io.ReadAll(s); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v came back", b, err)
			}
		})
	}
	ending.Wait()
}
