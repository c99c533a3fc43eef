//go:build linux

package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/weir-dev/weir/internal/impair"
)

var echoAt = netip.AddrPortFrom(officeEcho, 7).String()

// echoing is a sandbox that may reach the office's echo.
var echoing = sandbox{space: "acme", app: "echo", allow: []string{officeEcho.String() + ":*"}}

// TestNames: questions to the sandbox's own resolver are answered by the laptop's, whatever their type; those to a server that
// the program names go to that very server.
func TestNames(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	p := h.laptops["a"]
	p.write(t, "hosts", "127.0.0.1 localhost\n"+cloudAddr.String()+" edge.example\n10.0.1.7 nas.internal.example.com\n")
	h.connect(t, "a", "acme", "--allow", "*.internal.example.com:*", "--allow", "10.0.0.0/16:*", "--dns", "all")
	s := sandbox{space: "acme", app: "asker", allow: []string{"*.internal.example.com:*", "10.0.0.0/16:*"}}
	for _, c := range []struct{ probe, want string }{
		{"dns 10.77.0.1:53 " + staging + " A", "NOERROR truncated: false|" + staging + ". 60 IN A 10.0.1.50"},
		{"dns 10.77.0.1:53 " + staging + " AAAA", "NOERROR truncated: false"},
		{"dns 10.77.0.1:53 none.internal.example.com A", "NXDOMAIN truncated: false"},
		{"dns 10.77.0.1:53 who.internal.example.com TXT", `NOERROR truncated: false|who.internal.example.com. 60 IN TXT "office a"`},
		{"dns 10.77.0.1:53 _db._tcp." + staging + " SRV", "NOERROR truncated: false|_db._tcp." + staging + ". 60 IN SRV 0 0 5432 " + staging + "."},
		{"dns+tcp 10.77.0.1:53 " + staging + " A", "NOERROR truncated: false|" + staging + ". 60 IN A 10.0.1.50"},
		{"dns 10.77.0.1:53 nas.internal.example.com A", "NOERROR truncated: false|nas.internal.example.com. 60 IN A 10.0.1.7"},
		{"dns " + officeDNS.String() + ":53 who.internal.example.com TXT", `NOERROR truncated: false|who.internal.example.com. 60 IN TXT "office a"`},
	} {
		t.Run(c.probe, func(t *testing.T) {
			said, log := h.probe(t, s, strings.Fields(c.probe)...)
			lines := strings.Split(said, "\n")
			for i, line := range lines {
				lines[i] = strings.Join(strings.Fields(line), " ")
			}
			if got := strings.Join(lines, "|"); got != c.want {
				t.Errorf("said %q, want %q\n%s", got, c.want, log)
			}
			if q := log.find("dns-query", "route=tunnel"); q == nil {
				t.Errorf("no such query:\n%s", log)
			}
		})
	}
	for _, q := range h.dns.Asked() {
		if strings.Contains(q, "internal.example.com") {
			t.Errorf("the cloud's DNS was asked: %s", q)
		}
	}
}

// TestClientDecides: what the user's own list does not cover is not dialled, whatever the hosted side allows.
func TestClientDecides(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	p := h.laptops["a"]
	echo(t, p.machine, netip.MustParseAddrPort("127.0.0.1:7007"))
	echo(t, p.machine, netip.MustParseAddrPort("192.168.1.2:7007"))
	client := h.connect(t, "a", "acme", "--allow", "*.internal.example.com:*", "--allow", "@private:7,7007,80", "--deny", "10.0.1.53", "--dns", "all")
	for _, c := range []struct {
		name, probe string
		rules       []string
		reached     bool
	}{
		{"allowed", "tcp " + echoAt + " hello", []string{"10.0.1.7:7"}, true},
		{"another port", "tcp 10.0.1.7:6 hello", []string{"10.0.1.7:6"}, false},
		{"denied on the laptop", "tcp 10.0.1.53:53 hello", []string{"10.0.1.53:53"}, false},
		{"the laptop's loopback by a name", "tcp loopback.internal.example.com:7007 hello", []string{"loopback.internal.example.com:7007", "127.0.0.0/8:*"}, false},
		{"the laptop itself", "tcp 192.168.1.2:7007 hello", []string{"192.168.1.2:7007"}, false},
		{"metadata by a name", "tcp metadata.internal.example.com:80 hello", []string{"metadata.internal.example.com:80", "169.254.169.254:80"}, false},
		{"the edge", fmt.Sprintf("tcp %s:%d hello", cloudAddr, edgePort), []string{cloudAddr.String() + ":*"}, false},
		{"over UDP", "udp 192.168.1.2:7007 hello", []string{"192.168.1.2:7007"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			said, log := h.probe(t, sandbox{space: "acme", app: "mcp", allow: c.rules}, strings.Fields(c.probe)...)
			if reached := said == "hello"; reached != c.reached {
				t.Errorf("said %q\n%s\nthe client:\n%s", said, log, client.said)
			}
			if c.reached {
				return
			}
			if strings.Contains(said, "timeout") {
				t.Errorf("it was not told at once: %q", said)
			}
		})
	}
	if left := h.strayed(); len(left) != 0 {
		t.Errorf("left the cloud: %v", left)
	}
}

// TestErrors: what the laptop's network says of a destination is what the program is told.
func TestErrors(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	h.connect(t, "a", "acme", "--allow", "10.0.0.0/16:*")
	for _, door := range doors {
		for probe, want := range map[string]string{
			"tcp 10.0.1.7:9 x":    "ECONNREFUSED",
			"tcp 10.0.1.99:7 x":   "EHOSTUNREACH",
			"udp 10.0.1.7:9 x":    "ECONNREFUSED",
			"upload 10.0.1.7:6 5": "the same",
			"many 100 10.0.1.7:7": "100 of 100",
		} {
			t.Run(door+" "+probe, func(t *testing.T) {
				args := strings.Fields(probe)
				if args[0] == "many" {
					args = []string{"many", args[1], args[2]}
				}
				s := sandbox{space: "acme", app: "mcp", door: door, allow: []string{"10.0.0.0/16:*"}}
				if said, log := h.probe(t, s, args...); !strings.Contains(said, want) {
					t.Errorf("said %q, want %s\n%s", said, want, log)
				}
			})
		}
	}
}

// sizesOfDatagrams are those where something changes: an inner QUIC handshake, what fits into one packet of the tunnel on paths
// of 1200 to 1500 octets, what fits into one packet of the sandbox's link, and what UDP can carry at all.
const sizesOfDatagrams = "0,1,1163,1195,1200,1215,1243,1415,1472,9000,65507"

// TestDatagrams: datagrams of all sizes get through paths of all lengths. Below 1280 octets there is no room for QUIC, and the
// WebSocket carries them.
func TestDatagrams(t *testing.T) {
	for _, c := range []struct {
		mtu       int
		transport string
	}{{1500, "quic"}, {1400, "quic"}, {1280, "quic"}, {1200, "websocket"}} {
		t.Run(fmt.Sprint(c.mtu), func(t *testing.T) {
			t.Parallel()
			h := host(t, "a")
			h.laptops["a"].link.SetBoth(impair.Settings{MTU: c.mtu})
			client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":7")
			if !strings.Contains(client.said.String(), `"transport":"`+c.transport) {
				t.Errorf("connected by something else:\n%s", client.said)
			}
			for _, door := range doors {
				s := echoing
				s.door = door
				if said, log := h.probe(t, s, "sizes", echoAt, sizesOfDatagrams); said != sizesOfDatagrams {
					t.Errorf("%s: came back: %s\n%s", door, said, log)
				}
			}
		})
	}
}

// TestPathGetsShorter: a tunnel that stands on a path whose MTU drops carries on, be it by another session.
func TestPathGetsShorter(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(map[bool]string{false: "and says so", true: "in silence"}[silent], func(t *testing.T) {
			if !silent {
				long(t)
			}
			t.Parallel()
			h := host(t, "a")
			h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
			if said, log := h.probe(t, echoing, "upload", sumAt.String(), "4000000"); said != "the same" {
				t.Fatalf("before: %q\n%s", said, log)
			}
			h.laptops["a"].link.SetBoth(impair.Settings{MTU: 1300, Silent: silent})
			took := await(t, 60*time.Second, "carry on", func() bool {
				said, _ := h.probe(t, echoing, "upload", sumAt.String(), "4000000")
				return said == "the same"
			})
			t.Logf("carried on after %v", took)
		})
	}
}

// TestHTTP3: a QUIC connection inside the tunnel's own.
func TestHTTP3(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	const name = "h3.internal.example.com"
	ca, conf := authorityFor(t, name)
	pc := h.laptops["a"].office.listenPacket(t, netip.AddrPortFrom(officeWeb, 443))
	server := &http3.Server{TLSConfig: http3.ConfigureTLSConfig(conf), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from the office of %s over %s", r.Host, r.Proto)
	})}
	go server.Serve(pc)
	t.Cleanup(func() { server.Close() })
	h.connect(t, "a", "acme", "--allow", name+":443")
	for _, door := range doors {
		s := sandbox{space: "acme", app: "browser", door: door, allow: []string{name + ":443"}, flags: []string{"--share=" + ca + ":/run/ca.pem:ro", "--env=SSL_CERT_FILE=/run/ca.pem"}}
		said, log := h.probe(t, s, "get", "https3://"+name+"/")
		if said != "200 OK\nhello from the office of "+name+" over HTTP/3.0" {
			t.Errorf("%s: %q\n%s", door, said, log)
		}
		if log.find("network-connect", "protocol=udp", "route=tunnel", "sni="+name) == nil {
			t.Errorf("%s: no such event:\n%s", door, log)
		}
	}
}

// authorityFor makes a certificate for the name and the file by which it is trusted.
func authorityFor(t *testing.T, name string) (file string, conf *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
