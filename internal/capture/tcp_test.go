package capture

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const (
	tcpLine  = "tcp 10.77.0.2:40000 > 192.0.2.1:443 "
	httpLine = tcpLine + "http-host api.example"
	noLine   = tcpLine + "none"
)

// fromClient and fromServer make segments of the test connection, at offsets from its first octet.
func clientSegment(offset uint32, flags, data string) []byte {
	return tcpPacket(client, server, isn+1+offset, serverISN+1, flags, data)
}

func serverSegment(offset uint32, flags, data string) []byte {
	return tcpPacket(server, client, serverISN+1+offset, isn+1, flags, data)
}

func TestClaims(t *testing.T) {
	hello := clientHello("api.example")
	sslRequest := "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	startup := "\x00\x00\x00\x14\x00\x03\x00\x00user\x00me\x00\x00\x00"
	tests := []struct {
		name     string
		segments []string
		want     string
	}{
		{"http", []string{httpHead}, httpLine},
		{"http on an IP address", []string{"GET / HTTP/1.1\r\nHost: 192.0.2.7:8000\r\n\r\n"}, tcpLine + "http-host 192.0.2.7"},
		{"tls", []string{hello}, tcpLine + "sni api.example"},
		{"tls without a name", []string{clientHello("")}, noLine},
		{"one octet per segment", strings.Split(httpHead, ""), httpLine},
		{"connect", []string{"CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n"}, tcpLine + "http-host far.example"},
		{"connect, then a hello for the same name", []string{"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n", hello}, tcpLine + "http-host api.example"},
		{"connect, then a hello for another", []string{"CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n", hello}, tcpLine + "http-host far.example api.example"},
		{"postgres over tls", []string{sslRequest, hello}, tcpLine + "sni api.example"},
		{"postgres over tls, at once", []string{sslRequest + hello}, tcpLine + "sni api.example"},
		{"postgres, refused tls", []string{sslRequest, startup}, noLine},
		{"starttls", []string{"EHLO me\r\n", "STARTTLS\r\n", hello}, tcpLine + "sni api.example"},
		{"starttls, cut inside the hello", []string{"EHLO me\r\nSTARTTLS\r\n" + hello[:3], hello[3:40], hello[40:]}, tcpLine + "sni api.example"},
		{"ssh", []string{"SSH-2.0-OpenSSH_9.9\r\n"}, noLine},
		{"two hosts", []string{"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"}, noLine + " malformed"},
		{"no host name", []string{strings.ReplaceAll(hello, "api.example", "api:example")}, tcpLine + "sni api:example malformed"},
		{"no host name in http", []string{"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n"}, tcpLine + "http-host a..b malformed"},
		{"unfinished", []string{httpHead[:20]}, noLine},
		{"nothing", nil, noLine},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantLines(t, read(t, rawIP(talk(client, server, tt.segments...)...)), tt.want)
		})
	}
}

// TestOrder shuffles, doubles and drops packets of one connection.
func TestOrder(t *testing.T) {
	hello := clientHello("api.example")
	packets := talk(client, server, hello[:100], hello[100:101], hello[101:300], hello[300:])
	t.Run("any order", func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		for range 200 {
			p := append(slices.Clone(packets), packets[r.IntN(len(packets))])
			r.Shuffle(len(p), func(i, j int) { p[i], p[j] = p[j], p[i] })
			wantLines(t, read(t, rawIP(p...)), tcpLine+"sni api.example")
		}
	})
	t.Run("a segment is missing", func(t *testing.T) {
		wantLines(t, read(t, rawIP(slices.Delete(slices.Clone(packets), 5, 6)...)), noLine)
	})
	t.Run("one side only", func(t *testing.T) {
		var p [][]byte
		for _, b := range packets {
			if netip.AddrFrom4([4]byte(b[12:])) == client.Addr() {
				p = append(p, b)
			}
		}
		wantLines(t, read(t, rawIP(p...)), tcpLine+"sni api.example")
		wantLines(t, read(t, rawIP(p[1:]...)), tcpLine+"sni api.example")
	})
	t.Run("an overlap that rewrites the name", func(t *testing.T) {
		wantLines(t, read(t, rawIP(
			clientSegment(0xffffffff, "S", ""),
			clientSegment(22, "A", "api.example\r\n\r\n"),
			clientSegment(16, "A", "Host: bad.example\r\n\r\n"),
			clientSegment(0, "A", "GET / HTTP/1.1\r\n"),
		)), httpLine)
	})
}

// TestSnapLength cuts a segment short in the capture: what follows is behind a hole.
func TestSnapLength(t *testing.T) {
	hello := clientHello("api.example")
	p := talk(client, server, hello[:60], hello[60:])
	cut := slices.Clone(p)
	cut[3] = cut[3][:90]
	wantLines(t, read(t, rawIP(cut...)), noLine)
	// The same cut behind the claim does not matter.
	p = talk(client, server, httpHead+"body", "more")
	p[3] = p[3][:len(p[3])-4]
	wantLines(t, read(t, rawIP(p...)), httpLine)
}

// TestOffload reads packets with a length of zero, as they look before the network card has cut them.
func TestOffload(t *testing.T) {
	p := talk(client, server, httpHead)
	p[3][2], p[3][3] = 0, 0
	p6 := talk(client6, server6, httpHead)
	p6[3][4], p6[3][5] = 0, 0
	wantLines(t, read(t, rawIP(append(p, p6...)...)), httpLine, "tcp [2001:db8::2]:40000 > [2001:db8::1]:443 http-host api.example")
}

func TestDirection(t *testing.T) {
	high := netip.MustParseAddrPort("192.0.2.1:40443")
	tests := []struct {
		name    string
		packets [][]byte
		want    string
	}{
		{"SYN-ACK only", [][]byte{serverSegment(0xffffffff, "SA", "")}, noLine},
		{"client's claim in the middle", [][]byte{clientSegment(0, "A", httpHead)}, httpLine},
		{"server spoke first", [][]byte{serverSegment(0, "A", "220 hello\r\n"), clientSegment(0, "A", httpHead)}, httpLine},
		{"ports alone, server first", [][]byte{serverSegment(0, "A", "x")}, noLine},
		{"high port, claim tells", [][]byte{tcpPacket(high, client, 9, 9, "A", "hello"), tcpPacket(client, high, 9, 14, "A", httpHead)},
			"tcp 10.77.0.2:40000 > 192.0.2.1:40443 http-host api.example"},
		{"high port, late hello tells", [][]byte{
			tcpPacket(high, client, 9, 9, "A", "220 hello\r\n"),
			tcpPacket(client, high, 9, 20, "A", "STARTTLS\r\n"+clientHello("api.example")),
		}, "tcp 10.77.0.2:40000 > 192.0.2.1:40443 sni api.example"},
		{"high port, first packet tells", [][]byte{tcpPacket(client, high, 9, 9, "A", "??")}, "tcp 10.77.0.2:40000 > 192.0.2.1:40443 none"},
		{"both identify as SSH", [][]byte{
			tcpPacket(netip.MustParseAddrPort("192.0.2.1:22"), client, 9, 9, "A", "SSH-2.0-server\r\n"),
			tcpPacket(client, netip.MustParseAddrPort("192.0.2.1:22"), 9, 9, "A", "SSH-2.0-client\r\n"),
		}, "tcp 10.77.0.2:40000 > 192.0.2.1:22 none"},
		{"a server that answers with a request is no client", append(talk(client, server, "hello"), serverSegment(0, "A", httpHead)), noLine},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantLines(t, read(t, rawIP(tt.packets...)), tt.want) })
	}
}

func TestReuse(t *testing.T) {
	again := uint32(77)
	second := [][]byte{
		tcpPacket(client, server, again, 0, "S", ""),
		tcpPacket(server, client, 9, again+1, "SA", ""),
		tcpPacket(client, server, again+1, 10, "A", strings.ReplaceAll(httpHead, "api", "two")),
	}
	const secondLine = tcpLine + "http-host two.example"
	open := talk(client, server, "GET / HTTP")
	tests := []struct {
		name    string
		packets [][]byte
		want    []string
	}{
		{"after a claim", append(talk(client, server, httpHead), second...), []string{httpLine, secondLine}},
		{"after FIN", append(append(slices.Clone(open), clientSegment(10, "FA", "")), second...), []string{noLine, secondLine}},
		{"after FIN, the server's side missing", append(append(slices.Clone(open), clientSegment(10, "FA", "")), second[0], second[2]), []string{noLine, secondLine}},
		{"the server never seen", [][]byte{open[0], open[3], second[0], second[2]}, []string{noLine, secondLine}},
		{"after nothing", append(talk(client, server), second...), []string{noLine, secondLine}},
		{"confirmed by the server", append(slices.Clone(open), second...), []string{noLine, secondLine}},
		{"a stray SYN changes nothing", append(slices.Insert(slices.Clone(open), 3, second[0]), clientSegment(10, "A", httpHead[10:])), []string{httpLine}},
		{"SYN again", append(slices.Insert(slices.Clone(open), 3, open[0]), clientSegment(10, "A", httpHead[10:])), []string{httpLine}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantLines(t, read(t, rawIP(tt.packets...)), tt.want...) })
	}
}

// TestLateSYN sees the SYN of a connection long after it was reported.
func TestLateSYN(t *testing.T) {
	packets := [][]byte{clientSegment(0, "A", httpHead)}
	for range maxReorder {
		packets = append(packets, serverSegment(0, "A", ""))
	}
	packets = append(packets, clientSegment(0xffffffff, "S", ""))
	wantLines(t, read(t, rawIP(packets...)), httpLine)
}

// TestFastOpen carries data in the SYN (RFC 7413).
func TestFastOpen(t *testing.T) {
	syn := tcpPacket(client, server, isn, 0, "S", httpHead)
	other := strings.ReplaceAll(httpHead, "api", "two")
	took := tcpPacket(server, client, serverISN, isn+1+uint32(len(httpHead)), "SA", "")
	ignored := tcpPacket(server, client, serverISN, isn+1, "SA", "")
	tests := []struct {
		name    string
		packets [][]byte
		want    string
	}{
		{"taken", [][]byte{syn, took}, httpLine},
		{"taken, SYN-ACK lost", [][]byte{syn, tcpPacket(server, client, serverISN+1, isn+1+uint32(len(httpHead)), "A", "HTTP/1.1 200 OK\r\n\r\n")}, httpLine},
		{"unknown", [][]byte{syn}, httpLine},
		{"client goes on behind it", [][]byte{tcpPacket(client, server, isn, 0, "S", httpHead[:9]), clientSegment(9, "A", httpHead[9:])}, httpLine},
		{"ignored, sent again", [][]byte{syn, ignored, clientSegment(0, "A", httpHead)}, httpLine},
		{"ignored, something else sent", [][]byte{syn, ignored, clientSegment(0, "A", other)}, tcpLine + "http-host two.example"},
		{"ignored, seen in another order", [][]byte{ignored, syn, clientSegment(0, "A", other)}, tcpLine + "http-host two.example"},
		{"ignored, nothing sent", [][]byte{syn, ignored}, noLine},
		{"ignored, nothing sent, in another order", [][]byte{ignored, syn}, noLine},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantLines(t, read(t, rawIP(tt.packets...)), tt.want) })
	}
}
