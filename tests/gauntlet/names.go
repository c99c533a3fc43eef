//go:build linux

package gauntlet

func nameRows() []Row {
	return []Row{
		{
			ID: "names/lying-sni", Vector: "TLS to an unlisted address with the SNI of an allowed name", Right: "a claim without evidence is denied, nothing is dialled",
			Source: "microsandbox PR #694",
			Lifted: []string{"--allow", "shop.example", "--allow", Evil.String() + ":443"},
			Attack: func(a *Attacker) error { return a.tellTLS(at(Evil, 443), "shop.example") },
			Harm:   Heard,
			Record: []string{"network-connect verdict=deny dest_ip=203.0.113.66 reason=no-evidence"},
		},
	}
}
