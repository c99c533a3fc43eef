// Package tunnel has the words that both ends of a tunnel share. The wire format is specified in docs/tunnel.md.
//
// A user has a machine that reaches what the hosted side cannot: a staging database, a VPN, an address that others let in.
// On it runs the client, which dials out, once. The hosted end is the edge; it opens one stream over that connection for
// each flow of a sandbox, and the client dials the flow's destination from where it stands, with its own names.
//
//	program | door -> gate -> | UNIX socket | -> edge | == QUIC, or QUIC in WebSocket == | client -> staging-db:5432
//	sandbox | data path       |  handoff    |   session, websocket                       | the user's own policy
//
// Neither end trusts the other. The edge knows whose flow it is because each sandbox has a socket of its own, and gives
// it to clients of the sandbox's space and to no other. The client takes nothing that the edge says for true: its own list
// is judged on the address that it dials, for each flow. Without a client there is no way out, never another one.
//
// What lies below: package wire is the format, session one authenticated connection, creds who is who, websocket the way
// where UDP is blocked, edge the hosted end, handoff its socket towards the data paths, client and localdns the user's end.
package tunnel
