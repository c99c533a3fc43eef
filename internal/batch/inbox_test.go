//go:build linux

package batch

import (
	"bytes"
	"sync"
	"testing"
)

// TestWideInboxes: flows whose datagrams wait for room somewhere hold little memory each, all datagrams come as they were
// sent all the same, and everything is given back.
func TestWideInboxes(t *testing.T) {
	const flows = maxWide + 8
	var waiting, ended sync.WaitGroup
	release := make(chan struct{})
	want := sizesOf(append(repeat(40, 1200), 0, 7, 60000, 1)...)
	for range flows {
		a, b := udpPair(t, "udp4")
		from, to := newSocket(t, a), newSocket(t, b)
		if _, _, err := from.Send(want, true); err != nil {
			t.Fatal(err)
		}
		waiting.Add(1)
		first := sync.OnceFunc(waiting.Done)
		ended.Go(func() {
			var got [][]byte
			err := to.Receive(func(datagrams [][]byte) error {
				first()
				<-release
				for _, d := range datagrams {
					got = append(got, bytes.Clone(d))
				}
				if len(got) < len(want) {
					return nil
				}
				return errEnough
			})
			for i := range want {
				if i >= len(got) || !bytes.Equal(got[i], want[i]) {
					t.Errorf("datagram %d of %d is not what was sent: %v", i, len(got), err)
					return
				}
			}
		})
	}
	waiting.Wait()
	if used := inboxes.wideUsed.Load(); used != maxWide {
		t.Errorf("%d flows wait with %d inboxes of %d octets, want %d", flows, used, slots*slotStride, maxWide)
	}
	close(release)
	ended.Wait()
	if used := inboxes.wideUsed.Load(); used != 0 {
		t.Errorf("%d inboxes are not given back", used)
	}
}
