//go:build linux && !client

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/flow/event"
)

// captured is a pcap with one packet of raw IP: a TCP segment from 10.77.0.2:40000 to 192.0.2.1:80.
func captured(data string) []byte {
	le, be := binary.LittleEndian, binary.BigEndian
	b := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0}
	n := uint32(40 + len(data))
	for _, v := range []uint32{1795255200, 123456, n, n} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, 0x45, 0)
	b = be.AppendUint16(b, uint16(n))
	b = append(b, 0, 0, 0, 0, 64, 6, 0, 0, 10, 77, 0, 2, 192, 0, 2, 1)
	b = be.AppendUint16(b, 40000)
	b = be.AppendUint16(b, 80)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 255, 255, 0, 0, 0, 0)
	return append(b, data...)
}

const capturedRequest = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"

// runRead runs the command and returns what it wrote.
func runRead(stdin io.Reader, args ...string) (stdout, stderr string, err error) {
	cmd := newReadCommand()
	var out, diag bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(stdin)
	cmd.SetOut(&out)
	cmd.SetErr(&diag)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.Execute()
	return out.String(), diag.String(), err
}

func TestReadCommand(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := captured(capturedRequest)
	path := file("good.pcap", good)
	for name, from := range map[string]struct {
		stdin io.Reader
		arg   string
	}{"file": {nil, path}, "stdin": {bytes.NewReader(good), "-"}} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, err := runRead(from.stdin, from.arg)
			if err != nil || stderr != "" {
				t.Fatalf("error %v, stderr %q", err, stderr)
			}
			var line struct {
				Event   string
				Details struct {
					Hostname string `json:"hostname"`
					Port     int    `json:"dest_port"`
				}
			}
			if err := json.Unmarshal([]byte(stdout), &line); err != nil {
				t.Fatalf("%v in %s", err, stdout)
			}
			if line.Event != "network-connect" || line.Details.Hostname != "api.example" || line.Details.Port != 80 {
				t.Errorf("got %s", stdout)
			}
		})
	}

	broken := file("broken.pcap", good[:len(good)-1])
	twice := file("twice.pcap", append(good, good[24:50]...))
	failures := []struct {
		name string
		args []string
		want string
	}{
		{"no file", []string{filepath.Join(dir, "none")}, "open capture: open " + filepath.Join(dir, "none") + ": no such file or directory"},
		{"damaged", []string{broken}, broken + ": read record 1 at octet 24: file is cut off here"},
		{"damaged later", []string{twice}, twice + ": read record 2 at octet 117: file is cut off here"},
		{"directory", []string{dir}, dir + ": read file header: read " + dir + ": is a directory"},
		{"two files", []string{"a", "b"}, "read: want FILE, 2 given"},
	}
	for _, tt := range failures {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := runRead(nil, tt.args...)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got error  %v\nwant error %s", err, tt.want)
			}
			if len(tt.args) == 1 && exitStatus(err) != 1 {
				t.Errorf("exit status %d, want 1", exitStatus(err))
			}
		})
	}
	t.Run("what was read before the damage", func(t *testing.T) {
		if stdout, _, _ := runRead(nil, twice); !strings.Contains(stdout, "api.example") {
			t.Errorf("got %q", stdout)
		}
	})
}

// TestReadTable prints hostile names for a person.
func TestReadTable(t *testing.T) {
	var b bytes.Buffer
	p := newFlowPrinter(&b, false)
	p.table = true
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	src, dst := netip.MustParseAddrPort("10.77.0.2:40000"), netip.MustParseAddrPort("192.0.2.1:443")
	for _, d := range []event.Details{
		&event.Connect{Hostname: "api.example", NameSource: "sni", Names: []string{"api.example", "two.example"}, Src: src, Dst: dst, Protocol: "tcp"},
		&event.Connect{Src: netip.AddrPortFrom(src.Addr(), 0), Dst: netip.AddrPortFrom(dst.Addr(), 0), Protocol: "icmp"},
		&event.Connect{Src: src, Dst: dst, Protocol: "tcp", Reason: "malformed"},
		&event.Connect{Hostname: "evil\x1b[2J\n", NameSource: "sni", Names: []string{"evil\x1b[2J\n"}, Src: src, Dst: dst, Protocol: "tcp", Reason: "malformed"},
		&event.DNSQuery{Hostname: "api.example", QType: "A", Server: "192.0.2.53:53", RCode: "NOERROR", Answers: []string{"192.0.2.1"}},
		&event.DNSQuery{Hostname: "no.example", QType: "A", Server: "192.0.2.53:53", RCode: "NXDOMAIN"},
		&event.DNSQuery{Hostname: "lost.example", QType: "A", Server: "192.0.2.53:53"},
	} {
		p.Emit(&event.Event{Time: at, Details: d})
	}
	p.flush()
	want := strings.Join([]string{
		"TIME             PROTO  FROM                      TO                        NAME",
		"10:00:00.000000  tcp    10.77.0.2:40000           192.0.2.1:443             api.example (sni), then two.example",
		"10:00:00.000000  icmp   10.77.0.2                 192.0.2.1                 -",
		"10:00:00.000000  tcp    10.77.0.2:40000           192.0.2.1:443             (malformed)",
		`10:00:00.000000  tcp    10.77.0.2:40000           192.0.2.1:443             evil\u001b[2J\u000a (sni, malformed)`,
		"10:00:00.000000  dns                              192.0.2.53:53             api.example A -> 192.0.2.1",
		"10:00:00.000000  dns                              192.0.2.53:53             no.example A -> NXDOMAIN",
		"10:00:00.000000  dns                              192.0.2.53:53             lost.example A (no answer)",
		"",
	}, "\n")
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestReadFullDisk stops when nothing can be written any more.
func TestReadFullDisk(t *testing.T) {
	err := readCapture(bytes.NewReader(captured(capturedRequest)), "x.pcap", newFlowPrinter(fullDisk{}, true), &ui{w: io.Discard})
	if err == nil || err.Error() != "write events: no space left" {
		t.Errorf("got error %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }
