package resolver

import (
	"strings"
	"testing"

	"github.com/weir-dev/weir/internal/hostname"
)

// What the policy judges of a name, and what it does not take for a service.
func TestJudgedName(t *testing.T) {
	long := "_" + strings.Repeat("x", hostname.MaxService-1)
	for _, c := range []struct{ wire, judged string }{
		{"_postgres._tcp.db.example.", "db.example"},
		{"_8443._https.Shop.Example.", "shop.example"},
		{long + "." + long + ".shop.example.", "shop.example"},
		{long + "x._tcp.shop.example.", long + "x._tcp.shop.example"}, // data, where a service should be
		{"_tcp." + long + "x.shop.example.", "_tcp." + long + "x.shop.example"},
		{"_dmarc.shop.example.", "_dmarc.shop.example"},
		{"_._tcp.shop.example.", "_._tcp.shop.example"},
		{"_a._b._c.shop.example.", "_c.shop.example"},
	} {
		if got := nameOf(c.wire).judged; got != c.judged {
			t.Errorf("%s is judged as %s, want %s", c.wire, got, c.judged)
		}
	}
}
