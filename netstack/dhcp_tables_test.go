package netstack

import (
	"reflect"
	"testing"

	"github.com/google/gopacket/layers"
)

// The tables are gone but for the ends of their first and last pages, and leases are given all the same (the tests beside).
func TestReleaseTables(t *testing.T) {
	middle := len(layers.EthernetTypeMetadata) / 2
	if layers.EthernetTypeMetadata[middle].DecodeWith == nil {
		t.Skip("this process has run the test before (-count), and what it gives back does not come again")
	}
	decoders := []reflect.Value{reflect.ValueOf(layers.EthernetTypeMetadata[middle].DecodeWith).Elem(), reflect.ValueOf(layers.PPPTypeMetadata[middle].DecodeWith).Elem()}
	for _, d := range decoders {
		if d.Int() != int64(middle) {
			t.Fatalf("the table of decoders is not what it was: %v", d)
		}
	}
	ReleaseTables()
	if layers.EthernetTypeMetadata[middle].DecodeWith != nil || layers.PPPTypeMetadata[middle].DecodeWith != nil {
		t.Fatal("a table is still filled")
	}
	for _, d := range decoders {
		if d.Int() != 0 {
			t.Fatal("a table of decoders is still filled")
		}
	}
}
