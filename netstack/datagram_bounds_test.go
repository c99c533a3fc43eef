package netstack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow"
)

// A program that is denied and sends on costs one judgement per refusalMemory, and nothing is left of it afterwards.
func TestDatagramRefusalMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, nil, func(a flow.Arrival) { a.Reject(flow.Denied) })
		for range 10 {
			for range 1000 {
				tt.give(testKey(1000, 9), "x")
				synctest.Wait()
			}
			time.Sleep(refusalMemory / 10)
		}
		if len(tt.arrivals) != 1 || tt.count("refused") != 9999 || len(tt.refused) != 10000 {
			t.Errorf("%d judgements, %d from memory, %d refusals told", len(tt.arrivals), tt.count("refused"), len(tt.refused))
		}
		tt.give(testKey(1000, 9), "x")
		synctest.Wait()
		if len(tt.arrivals) != 2 {
			t.Errorf("%d judgements after the memory faded, want 2", len(tt.arrivals))
		}
		for i := range 3 * maxRefusals {
			tt.give(testKey(i+1, 10), "x")
			synctest.Wait()
		}
		if got, want := tt.left(), fmt.Sprintf("0 flows, 0 pending, %d refusals, 0 bytes", maxRefusals); got != want {
			t.Errorf("left: %s, want %s", got, want)
		}
		time.Sleep(2 * refusalMemory)
		synctest.Wait()
		if got := tt.left(); got != nothingLeft {
			t.Errorf("left: %s", got)
		}
	})
}

func TestDatagramHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, nil, nil)
		for i := range 10_000 {
			tt.give(testKey(i+1, 9), "x")
		}
		synctest.Wait()
		if len(tt.arrivals) != flow.DefaultHalfOpenUDP {
			t.Errorf("%d judgements at once, want %d", len(tt.arrivals), flow.DefaultHalfOpenUDP)
		}
		if n := tt.count("pending"); n != 10_000-flow.DefaultHalfOpenUDP {
			t.Errorf("%d drops counted", n)
		}
		// One that is decided makes room for one.
		if _, err := tt.arrival(0).Accept(); err != nil {
			t.Fatal(err)
		}
		tt.give(testKey(20_000, 9), "x")
		tt.give(testKey(20_001, 9), "x")
		synctest.Wait()
		if len(tt.arrivals) != flow.DefaultHalfOpenUDP+1 {
			t.Errorf("%d judgements", len(tt.arrivals))
		}
		// A verdict that never comes does not hold its place for ever either.
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := tt.left(); got != nothingLeft {
			t.Errorf("left after a minute: %s", got)
		}
		if _, err := tt.arrival(1).Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("accept of a flow that waited too long: %v", err)
		}
	})
}

func TestDatagramEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, func(c *datagramConfig) { c.maxFlows = 4 }, nil)
		conns := make([]net.Conn, 4)
		for i := range conns {
			conns[i] = tt.accepted(t, testKey(i, 9))
			time.Sleep(time.Second)
		}
		// Flow 0 hears from the sandbox and flow 1 from its peer, so flow 2 was quiet for longest.
		tt.give(testKey(0, 9), "x")
		readString(t, conns[0])
		conns[1].Write([]byte("y"))
		time.Sleep(time.Second)
		conns = append(conns, tt.accepted(t, testKey(4, 9)))
		for i, evicted := range []bool{false, false, true, false, false} {
			if _, err := conns[i].Write(nil); (err != nil) != evicted {
				t.Errorf("flow %d: %v, want it evicted: %t", i, err, evicted)
			}
		}
		if _, err := conns[2].Read(nil); !errors.Is(err, errEvicted) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read of an evicted flow: %v, want a timeout", err)
		}

		// 100,000 tuples later the table has not grown, even when every flow had an answer.
		for i := range 100_000 {
			tt.give(datagramKey{src: testKey(i%65536, 9).src, dst: testKey(0, 100+i/65536).dst}, "x")
			synctest.Wait()
			conn, err := tt.arrival(len(tt.arrivals) - 1).Accept()
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(nil)
			tt.arrivals, tt.sent = nil, nil
		}
		if want := fmt.Sprintf("4 flows, 0 pending, 0 refusals, %d bytes", 4*(1+datagramOverhead)); tt.left() != want {
			t.Errorf("left: %s, want %s", tt.left(), want)
		}
		if n := tt.count("evicted"); n != 100_001 {
			t.Errorf("%d evicted", n)
		}
	})
}

func TestDatagramQueueBounds(t *testing.T) {
	const tableful = maxTableBytes / (65507 + datagramOverhead)
	for _, c := range []struct {
		name             string
		flows, per, size int
		queued           int
	}{
		{"datagrams of a flow", 1, 1000, 0, maxFlowQueue},
		{"bytes of a flow", 1, 10, 65507, 3},
		{"bytes of a table", 100, 3, 65507, tableful},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt := newTableTest(t, nil, nil)
				payload, lost := string(make([]byte, c.size)), c.flows*c.per-c.queued
				for i := range c.flows {
					for range c.per {
						tt.give(testKey(i+1, 9), payload)
					}
				}
				want := fmt.Sprintf("%d flows, %d pending, 0 refusals, %d bytes", c.flows, c.flows, c.queued*(c.size+datagramOverhead))
				if got := tt.left(); got != want || tt.count("queue") != lost {
					t.Errorf("left: %s, want %s; %d dropped, want %d", got, want, tt.count("queue"), lost)
				}
				tt.close()
				if got := tt.left(); got != nothingLeft {
					t.Errorf("left in a closed table: %s", got)
				}
			})
		})
	}
}
