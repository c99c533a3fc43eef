package netstack

import (
	"testing"

	"github.com/google/gopacket/layers"
)

// The tables are gone but for the ends of their first and last pages, and leases are given all the same (the tests beside).
func TestReleaseTables(t *testing.T) {
	ReleaseTables()
	middle := len(layers.EthernetTypeMetadata) / 2
	if layers.EthernetTypeMetadata[middle].DecodeWith != nil || layers.PPPTypeMetadata[middle].DecodeWith != nil {
		t.Fatal("a table is still filled")
	}
}
