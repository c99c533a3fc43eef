package resolver

import (
	"errors"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

func TestDown(t *testing.T) {
	gone := errors.New("tunnel is down")
	if _, err := (Down{gone}).Exchange(t.Context(), testdns.Question("api.test", dns.TypeA, 0)); !errors.Is(err, gone) {
		t.Fatal(err)
	}
}
