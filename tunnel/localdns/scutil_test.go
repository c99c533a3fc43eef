package localdns

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/internal/stub"
)

// TestScutil: whom macOS would ask for a name, by what scutil printed on two machines.
func TestScutil(t *testing.T) {
	for _, c := range []struct{ file, name, want string }{
		{"office.txt", "api.example", "192.168.1.1:53 [fe80::1%en0]:53 2s"},
		{"office.txt", "", "192.168.1.1:53 [fe80::1%en0]:53 2s"},
		{"office.txt", "corp.example", "10.8.0.53:53 10.8.0.54:53 2s | 10.9.0.53:53 2s"},
		{"office.txt", "wiki.corp.example", "10.8.0.53:53 10.8.0.54:53 2s | 10.9.0.53:53 2s"},
		{"office.txt", "staging.db.corp.example", "127.0.0.1:5353 1s"},
		{"office.txt", "notcorp.example", "192.168.1.1:53 [fe80::1%en0]:53 2s"},
		{"office.txt", "printer.local", ""},
		{"office.txt", "1.1.254.169.in-addr.arpa", ""},
		{"office.txt", "5.0.168.192.in-addr.arpa", "192.168.1.1:53 [fe80::1%en0]:53 2s"},
		{"vpn.txt", "db.vpn.example", "100.64.0.1:53 2s"},
		{"vpn.txt", "api.example", "100.64.0.1:53 2s"},
		{"vpn.txt", "printer.local", ""},
	} {
		t.Run(c.file+" "+c.name, func(t *testing.T) {
			f, err := os.Open("testdata/" + c.file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var got []string
			for _, conf := range serversFor(parseScutil(f), c.name) {
				var one []string
				for _, s := range conf.Servers {
					one = append(one, s.String())
				}
				got = append(got, strings.Join(one, " ")+" "+conf.Timeout.String())
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " | ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestScutilBounds(t *testing.T) {
	var text strings.Builder
	for i := range 2 * maxResolvers {
		fmt.Fprintf(&text, "resolver #%d\n  domain : d%d.example\n", i, i)
		for j := range 2 * stub.MaxServers {
			fmt.Fprintf(&text, "  nameserver[%d] : 192.0.2.%d\n", j, j)
		}
	}
	list := parseScutil(strings.NewReader(text.String()))
	if len(list) != maxResolvers || len(list[0].addrs) != stub.MaxServers {
		t.Errorf("%d resolvers, %d servers", len(list), len(list[0].addrs))
	}
	if got := serversFor(nil, "api.example"); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

func FuzzScutil(f *testing.F) {
	for _, name := range []string{"office.txt", "vpn.txt"} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), "db.corp.example")
	}
	f.Add("resolver #1\n port : 70000\n nameserver[0] : x\n timeout : -1\n order : 999999999999999999999", "")
	f.Fuzz(func(t *testing.T, text, name string) {
		list := parseScutil(strings.NewReader(text))
		if len(list) > maxResolvers {
			t.Fatalf("%d resolvers", len(list))
		}
		name, err := hostname.Labels(name)
		if err != nil {
			name = ""
		}
		for _, c := range serversFor(list, name) {
			if len(c.Servers) == 0 || len(c.Servers) > stub.MaxServers || c.Timeout <= 0 || c.Attempts <= 0 {
				t.Fatalf("%+v", c)
			}
			for _, s := range c.Servers {
				if s.Port() == 0 || !s.IsValid() {
					t.Fatalf("server %v", s)
				}
			}
		}
	})
}
