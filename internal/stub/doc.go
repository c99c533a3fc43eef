// Package stub is a stub resolver: it asks DNS questions the way that the programs of this machine do, by its hosts file
// and the nameservers of its resolv.conf. It hides nothing that it is told and keeps no answer: the nameservers have a
// cache, and an answer older than its TTL would only be a second truth.
//
// A [Host] is the whole machine. A [Client] asks nameservers that somebody else has found, as on systems where resolv.conf
// is not what programs go by. [Ask] makes the question that may go to them from one that came from elsewhere.
//
// Both ends of a tunnel have one: the hosted side for the direct route, the user's machine for the names that only it knows.
package stub
