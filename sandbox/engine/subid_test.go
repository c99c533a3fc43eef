//go:build linux

package engine

import (
	"slices"
	"testing"

	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/idtools"

	"github.com/weir-dev/weir/sandbox"
)

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		name string
		list []idtools.SubIDRange
		want []sandbox.IDRange
	}{
		{"one", []idtools.SubIDRange{{Start: 100000, Length: 65536}}, []sandbox.IDRange{{Start: 100000, Count: 65536}}},
		{"two", []idtools.SubIDRange{{Start: 100000, Length: 10}, {Start: 200000, Length: 10}}, []sandbox.IDRange{{Start: 100000, Count: 10}, {Start: 200000, Count: 10}}},
		{"the same twice", []idtools.SubIDRange{{Start: 100000, Length: 10}, {Start: 100005, Length: 10}}, []sandbox.IDRange{{Start: 100000, Count: 10}}},
		{"with the user's own", []idtools.SubIDRange{{Start: 900, Length: 200}}, nil},
		{"with root's", []idtools.SubIDRange{{Start: 0, Length: 65536}}, nil},
		{"empty", []idtools.SubIDRange{{Start: 100000, Length: 0}, {Start: 1, Length: -5}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ranges(c.list, 1000); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
