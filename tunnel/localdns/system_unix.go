//go:build unix && !darwin

package localdns

// bind has the resolver ask the nameservers of resolv.conf: what the system's own programs do.
func (r *Resolver) bind() { r.ask = r.host.Exchange }
