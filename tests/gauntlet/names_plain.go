//go:build linux

package gauntlet

// plainRows hide nothing: a name that no rule has, and one that a rule denies.
func plainRows() []Row {
	otherToo := []string{"--allow", "shop.example", "--allow", "other.example"}
	return []Row{
		{
			ID: "names/unlisted", Vector: "TLS to a name that nobody allowed, by its own name and at its own address", Right: "what no rule has is denied",
			Source: "claude-code #77045, claude-code #78608, claude-code #88553", Rules: shopOnly, Lifted: otherToo,
			Attack: visit("other.example", Other), Harm: Heard,
			Record: []string{"dns-query hostname=other.example verdict=deny reason=dns-blocked", "network-connect verdict=deny dest_ip=198.51.100.11 dest_port=443"},
		},
		{
			ID: "names/unlisted-http", Vector: "the same in plain HTTP, which filters of HTTPS forget", Right: "denied as well",
			Source: "claude-code #40213", Rules: shopOnly, Lifted: otherToo,
			Attack: func(a *Attacker) error {
				a.learn("other.example")
				return a.request(Other, "other.example")
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip=198.51.100.11 dest_port=80"},
		},
		{
			ID: "names/deny-claim", Vector: "a denied name that was never looked up, at an address that is allowed", Right: "to deny, the claim is enough",
			Source: "microsandbox #782", Rules: notEvil, Lifted: everywhere, Prepare: Stranger,
			Attack: func(a *Attacker) error { return a.tellTLS(a.stranger(443), "evil.example") },
			Harm:   Heard, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=rule sni=evil.example"},
		},
	}
}
