package policy

import "testing"

func TestPortSet(t *testing.T) {
	for _, r := range []PortRange{{0, 65535}, {1, 1}, {63, 64}, {64, 127}, {60, 200}, {65535, 65535}} {
		var s portSet
		s.add(Ports{Ranges: []PortRange{r}})
		for p := 0; p <= 65535; p++ {
			if want := int(r.From) <= p && p <= int(r.To); s.has(uint16(p)) != want {
				t.Fatalf("%v: port %d is %v", r, p, !want)
			}
		}
	}
}
