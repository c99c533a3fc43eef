//go:build linux

package gauntlet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/miekg/dns"
)

// These rows are about a text that harms whoever writes it down. Their control needs such a victim. It is a collector that
// does what the peers did of whom this was reported: it puts what it was told between quotation marks and ends the line. What
// it is told are the names in hellos, requests and questions that arrive at the world's servers, and what the attacker tells
// the server of collectorPort, as an agent would that reports what the kernel says of a process. In weir the harm is to its
// own exits: the event log, the lines on stderr, the table of --summary. Other tools write nothing down, so whoever is behind
// them has to: the collector again.
func logRows() []Row {
	return slices.Concat(forgeryRows(), processTextRows(), bookRows(), policyRows())
}

// naive is the collector's log.
func naive(texts []string) string {
	var b strings.Builder
	for _, t := range texts {
		fmt.Fprintf(&b, "{\"event\":\"network-connect\",\"hostname\":\"%s\"}\n", t)
	}
	return b.String()
}

// written is what somebody has written down about this attack.
func (s *Stage) written() string {
	if s.Weir != "" {
		return s.Events + "\n" + s.Stderr
	}
	return naive(s.World.collectedWith(s.Token))
}

// forgedLine is an event that never happened.
func forgedLine(token string) string { return `{"event":"network-connect","forged":"` + token + `"}` }

// forged is a Harm: a reader of the log finds the forged event.
func forged(s *Stage) bool { return hasForged(s.written(), s.Token) }

// hasForged splits the way that readers do, some of them at U+2028 too.
func hasForged(log, token string) bool {
	lines := strings.FieldsFunc(log, func(r rune) bool { return strings.ContainsRune("\n\r\v\f\u0085\u2028\u2029", r) })
	return slices.ContainsFunc(lines, func(line string) bool {
		var e map[string]any
		return json.Unmarshal([]byte(line), &e) == nil && e["forged"] == token
	})
}

// hidden is a Harm: a line of the log cannot be read any more, so that who counts denials does not count it.
func hidden(s *Stage) bool {
	log := s.Events
	if s.Weir == "" {
		log = s.written()
	}
	for line := range strings.Lines(log) {
		if !json.Valid([]byte(line)) || !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
			return true
		}
	}
	return false
}

// verbatim is a Harm: the text stands somewhere as it is.
func verbatim(text func(token string) string) func(*Stage) bool {
	return func(s *Stage) bool { return strings.Contains(s.written(), text(s.Token)) }
}

// speaking shows all that weir may say.
func speaking(s *Stage) error {
	s.Flags = append(s.Flags, "--quiet=false", "--summary")
	return nil
}

// byAddress lets every name pass, so that it gets as far as the log.
var byAddress = []string{"--mode", "enforce", "--allow", Shop.String() + ":*"}

// shopRecorded are the events that must be there, whatever the name was.
func shopRecorded(port string) []string {
	return []string{"network-connect dest_ip=" + Shop.String() + " dest_port=" + port}
}

// forgeryRows say the text as a name.
func forgeryRows() []Row {
	title := func(token string) string { return "\x1b]2;" + token + "\x07\x9b31m" }
	reversed := func(token string) string { return "\u202e\u2066\u200b" + token }
	return []Row{
		{
			ID: "logs/newline-in-sni", Vector: "a server name with a quotation mark, a line break and an event of its own", Right: "one event is one line",
			Source: "buildcage PR #326, kubestellar #20857", Rules: byAddress, Prepare: speaking, Harm: forged, Record: shopRecorded("443"),
			Attack: func(a *Attacker) error { return a.tellTLS(at(Shop, 443), "x\"}\n"+forgedLine(a.Token)+"\n{\"x\":\"") },
		},
		{
			ID: "logs/quote-in-sni", Vector: "a server name with a quotation mark, so that its line is no JSON", Right: "every line can be read",
			Source: "buildcage PR #326", Rules: byAddress, Harm: hidden, Record: shopRecorded("443"),
			Attack: func(a *Attacker) error { return a.tellTLS(at(Shop, 443), a.Token+"\"\\") },
		},
		{
			ID: "logs/field-in-host", Vector: "a Host that closes its string and adds a field", Right: "a name stays a string",
			Rules: byAddress, Prepare: speaking, Harm: forged, Record: shopRecorded("80"),
			Attack: func(a *Attacker) error { return a.tellHost(`x","forged":"` + a.Token) },
		},
		{
			ID: "logs/escapes-in-host", Vector: "a Host that steers the terminal of who reads the log (OSC, C1 CSI)", Right: "control characters are shown, not sent",
			Source: "OSSEC CVE-2020-8445; navikt/cplt #221", Rules: byAddress, Prepare: speaking, Harm: verbatim(title), Record: shopRecorded("80"),
			Attack: func(a *Attacker) error { return a.tellHost(title(a.Token)) },
		},
		{
			ID: "logs/bidi-in-sni", Vector: "a server name that reads backwards (U+202E) with invisible characters", Right: "format characters are shown as such",
			Source: "security.md 2.6", Rules: byAddress, Prepare: speaking, Harm: verbatim(reversed), Record: shopRecorded("443"),
			Attack: func(a *Attacker) error {
				a.tellTLS(at(Shop, 443), reversed(a.Token))
				return nil
			},
		},
		{
			ID: "logs/octets-in-host", Vector: "a Host with NUL and octets that are no UTF-8", Right: "the log is UTF-8 without NUL",
			Source: "security.md 2.6", Rules: byAddress, Harm: hidden, Record: shopRecorded("80"),
			Attack: func(a *Attacker) error { return a.tellHost(a.Token + "\x00\xff\xfe") },
		},
		{
			ID: "logs/newline-in-question", Vector: "a DNS label with a line break and an event", Right: "one question is one line",
			Rules: []string{"--mode", "audit"}, Prepare: speaking, Harm: forged, Record: []string{"dns-query hostname=*"},
			Attack: func(a *Attacker) error { return a.askRaw("x\"}\n{\"forged\":\""+a.Token+"\"}\n", "shop", "example") },
		},
		{
			ID: "logs/escapes-in-question", Vector: "a DNS label that steers the terminal, in a question that is denied and said so", Right: "control characters are shown, not sent",
			Source: "OSSEC CVE-2020-8445", Prepare: speaking, Harm: verbatim(title), Record: []string{"dns-query verdict=deny hostname=*"},
			Attack: func(a *Attacker) error { return a.askRaw(title(a.Token), "example") },
		},
		{
			ID: "logs/separator-in-question", Vector: "a DNS label with U+2028, which some readers take for a line break", Right: "it is shown as such",
			Source: "security.md 2.6", Rules: []string{"--mode", "audit"}, Prepare: speaking, Harm: forged, Record: []string{"dns-query hostname=*"},
			Attack: func(a *Attacker) error {
				return a.askRaw("x\"}\u2028{\"forged\":\""+a.Token+"\"}\u2028", "shop", "example")
			},
		},
		{
			ID: "logs/event-in-answer", Vector: "an answer whose text has a line break and an event", Right: "answers are escaped as names are",
			Rules: []string{"--mode", "enforce", "--allow", "*.shop.example", "--allow", Shop.String() + ":*"}, Harm: forged, Record: []string{"dns-query verdict=allow qtype=TXT"},
			Prepare: func(s *Stage) error {
				text := strings.NewReplacer("\\", `\\`, `"`, `\"`, "\n", `\010`).Replace("x\"}\n" + forgedLine(s.Token) + "\n")
				return errors.Join(speaking(s), s.World.Record(s.Token+".shop.example. 60 IN TXT \""+text+"\""))
			},
			Attack: func(a *Attacker) error {
				text, err := a.askText(a.Token + ".shop.example")
				return errors.Join(err, a.report(text))
			},
		},
	}
}

// tellHost says the text as the Host of a request.
func (a *Attacker) tellHost(host string) error {
	c, err := dial("tcp", at(Shop, 80))
	if err != nil {
		return err
	}
	defer c.Close()
	tell(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n") // it may well be refused
	return nil
}

// report tells the collector.
func (a *Attacker) report(text string) error {
	c, err := dial("tcp", at(Shop, collectorPort))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadAll(c)
	return err
}

// resolverAddress is the one of resolv.conf.
func resolverAddress() (string, error) {
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(conf.Servers) == 0 {
		return "", fmt.Errorf("no resolver: %w", err)
	}
	return net.JoinHostPort(conf.Servers[0], "53"), nil
}

// askRaw asks the resolver for the address of a name with these labels, whatever is in them.
func (a *Attacker) askRaw(labels ...string) error {
	server, err := resolverAddress()
	if err != nil {
		return err
	}
	c, err := dial("udp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	q := []byte{0x47, 0x11, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		q = append(append(q, byte(len(l))), l...)
	}
	return tell(c, string(append(q, 0, 0, 1, 0, 1)))
}

// askText asks for a TXT record.
func (a *Attacker) askText(name string) (string, error) {
	server, err := resolverAddress()
	if err != nil {
		return "", err
	}
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeTXT)
	r, _, err := new(dns.Client).Exchange(q, server)
	if err != nil {
		return "", err
	}
	if len(r.Answer) != 1 {
		return "", fmt.Errorf("no text: %s", dns.RcodeToString[r.Rcode])
	}
	texts := r.Answer[0].(*dns.TXT).Txt
	return strings.NewReplacer(`\010`, "\n", `\"`, `"`, `\\`, `\`).Replace(strings.Join(texts, "")), nil
}

// again runs this program once more inside, from the file exe and with further arguments, as the second act of the row.
func (a *Attacker) again(exe string, args ...string) error {
	if exe == "" {
		exe = "/proc/self/exe"
	}
	told, err := json.Marshal(Attacker{ID: a.ID, Token: a.Token, Args: map[string]string{"act": "second"}})
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, append([]string{attackWord, string(told)}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("second act: %w: %s", err, out)
	}
	return nil
}

// copyTo copies this program to a file of that name in the temporary directory.
func copyTo(name string) (string, error) {
	dir, err := os.MkdirTemp("", "attack-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, errors.Join(copyFile("/proc/self/exe", path), os.Chmod(path, 0o755))
}
