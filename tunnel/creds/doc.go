// Package creds says who is who in a tunnel: it makes the certificates of both ends, gives them out, and takes them back.
//
// The hosted side has a directory, the [Store]. In it are a private certificate authority, the keys that QUIC needs to
// be the same after a restart, the registry of clients, and one-time tokens as hashes. Several processes share it: an
// edge, and the command by which somebody makes a token or revokes a client. Writers hold a lock, readers none: each
// file is replaced as a whole by a rename, so that a reader sees the old one or the new one, whenever a writer dies.
//
//	weir keys token     Store.NewToken   a token: a secret, once, and the pin of the authority
//	weir connect        Enroll           the pin says who the edge is; the client makes its key and sends a request
//	edge                Store.ServeEnroll  the token says which space; a certificate weir://SPACE/CLIENT for 24 hours
//	weir connect        Client.TLS       TLS 1.3 with certificates at both ends, for the tunnel itself
//	edge                Store.TLS, IdentityOf
//	both, in the tunnel Client.CSR, Store.Renew, Client.Install   at half of the lifetime
//
// The user's side has a file, the [Client]: its key, which never leaves it, its certificate, and the authorities that it
// takes for the edge's.
//
// Nobody else's word counts. The client trusts no system root and no host name, only the pins; the server asks for a name
// made of the pin. What a certificate request says of its subject is ignored. Every handshake, a resumed one too, looks the
// client up in the registry ([tls.Config.VerifyConnection]; VerifyPeerCertificate is not called on resumption), so there is
// no revocation list that could be old; and [Store.Watch] tells an edge whose live sessions must end.
//
// An expired certificate is worth nothing: there is no time of grace in which the old key still counts, so that a laptop
// that was lost a day ago needs nobody to remember it. Whoever stayed away for longer than the lifetime needs a token.
//
// A rotation makes a second authority. From then on it signs, and the first one stays for as long as certificates of its
// making live: clients that know only its pin ask for it by name and are served by it, learn of the other at their next
// renewal, and no connection is dropped. Rotation leaves the reset keys alone: nobody is identified by them, and with
// others a restarted edge could not tell its peers that their connections are gone.
package creds
