package hostname

import "strings"

// MaxService is the longest label of a service name in octets: 15 (RFC 6335 section 5.1) and the underscore. What may be
// longer would be a place to put data into, below a name that is allowed alone.
const MaxService = 16

// Owner drops the two leading labels of a service name (_service._proto of RFC 2782, the port prefix of RFC 9460 section
// 2.3): they say what is asked about a host and are no part of its name, so who may ask for the host may ask where its
// services are. Both must be there: a single underscored label (_dmarc) names a record of its own. name is in normal form.
func Owner(name string) string {
	service, rest, _ := strings.Cut(name, ".")
	proto, host, found := strings.Cut(rest, ".")
	if found && underscored(service) && underscored(proto) {
		return host
	}
	return name
}

func underscored(label string) bool {
	return len(label) > 1 && len(label) <= MaxService && label[0] == '_'
}
