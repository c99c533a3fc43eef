package client

import (
	"fmt"
	"strings"
	"testing"
)

// TestGateways: /proc/net/route and ipv6_route as kernels write them.
func TestGateways(t *testing.T) {
	got, err := gateways(strings.NewReader(`Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010011AC	0003	0	0	0	00000000	0	0	0
eth0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
eth1	00000000	00000000	0001	0	0	0	00000000	0	0	0
eth2	00000000	zz
`), gateway4)
	if err != nil || fmt.Sprint(got) != "[172.17.0.1]" {
		t.Errorf("IPv4: %v, %v", got, err)
	}
	got, err = gateways(strings.NewReader(`00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`), gateway6)
	if err != nil || fmt.Sprint(got) != "[fe80::1]" {
		t.Errorf("IPv6: %v, %v", got, err)
	}
}
