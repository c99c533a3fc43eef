// Package localdns is the user's machine's own DNS, for any query type: what a program on that machine would be told is
// what it answers. That is the point of a tunnel: names of a VPN, of an office, of the hosts file have their meaning here
// and nowhere else.
//
//	           ┌─ transfers, other classes ─▶ REFUSED
//	question ──┼─ the hosts file knows it ──▶ its answer
//	           └─ made anew ─▶ the system ──▶ its answer, whole, without its transport records
//
// What goes on to the system is only name, type and flag bits: no option of EDNS, so no client subnet, and not the case
// of the letters. What the system is differs:
//
//	Linux     the nameservers of resolv.conf, re-read when it changes. Where that is the stub of systemd-resolved, the stub
//	          knows which link has which domains.
//	macOS     resolv.conf is not what programs go by there. A and AAAA by the system's library. Other types by the
//	          nameservers that the system's configuration has for the name: the longest domain that the name is under.
//	Windows   A and AAAA by the system's library, other types by the nameservers of the adapters. Rules of the Name
//	          Resolution Policy Table hold for A and AAAA only.
//
// The library does not tell a name that does not exist from one without such records, and gives no TTL: a negative is
// confirmed by a question to the nameservers, and TTLs are 30 seconds.
//
// The answer of the machine is the truth: none is kept, compared or filtered here. Which names may be asked, and which
// addresses dialled, is for the policy of package client.
package localdns
