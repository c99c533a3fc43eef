//go:build linux

package tproxy

import (
	"net"
	"testing"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/testnet"
)

// echoBatches sends back what it gets.
type echoBatches struct{ c flow.BatchConn }

func (e echoBatches) TryBatch([][]byte) (int, error) { return 0, nil }
func (e echoBatches) WriteBatch(datagrams [][]byte) error {
	_, err := e.c.WriteBatch(datagrams)
	return err
}

// Datagrams pass by the batch as they would one by one: each whole, in order, from the address that they were sent to.
func TestBatches(t *testing.T) {
	for _, to := range []string{"192.0.2.1:13", "[2001:db8::1]:13"} {
		t.Run(to, func(t *testing.T) {
			serve(t, Limits{})
			c, err := net.Dial("udp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if n, _, err := testnet.Datagrams(c, 65507, 150, 1); err != nil {
				t.Errorf("after %d datagrams: %v", n, err)
			}
		})
	}
}
