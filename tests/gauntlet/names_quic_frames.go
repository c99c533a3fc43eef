//go:build linux

package gauntlet

import (
	"bytes"
	"slices"
)

// frameRows fill one Initial packet with frames as no library does.
func frameRows() []Row {
	return []Row{
		quicDatagrams("quic-many-frames", "one packet with the hello in frames of 8 octets, the last first, PING and PADDING between them", "put together, whatever lies between",
			"ops-drafts #358, nDPI #1489, suricata #12591, AdGuard CoreLibs #1554", mismatch+" sni=sibling.example", func(a *Attacker) [][]byte {
				return [][]byte{initial{dcid: "sawdust!", token: a.Token, frames: sawdust(quicHello("sibling.example"))}.packet()}
			}),
		{
			ID: "names/quic-frame-bounds", Vector: "CRYPTO frames that begin at the end of the number space, or are longer than their packet, to bring the reader down", Right: "malformed: denied; who reads lives to judge the next",
			Source: "v2ray #2886", Rules: shopOnly, Lifted: nil, // a weir that it brings down has to be red, not to fail a control
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				for _, frames := range unboundedFrames() {
					a.sayDatagrams(at(Shop, 443), moment, initial{dcid: "no bound", token: a.Token, frames: frames}.packet())
				}
				return a.sayHello(at(Shop, 443), serverName("sibling.example"), alpn(a.Token))
			},
			Harm: Heard, Record: []string{malformed + " protocol=udp", mismatch + " protocol=tcp sni=sibling.example"},
		},
	}
}

// sawdust is a message in CRYPTO frames of 8 octets in reverse order, each with a PING and some PADDING in front of it.
func sawdust(message []byte) (frames []byte) {
	const grain = 8
	for i, part := range slices.Backward(slices.Collect(slices.Chunk(message, grain))) {
		frames = append(append(frames, 1, 0, 0), crypto(i*grain, part)...)
	}
	return frames
}

// unboundedFrames are CRYPTO frames with numbers that no stream has (RFC 9000 sections 16 and 19.6).
func unboundedFrames() [][]byte {
	largest := bytes.Repeat([]byte{0xff}, 8) // 2^62-1
	hello := quicHello("sibling.example")
	tooFar := slices.Concat([]byte{6}, largest, []byte{0x40, byte(len(hello))}, hello)
	tooLong := slices.Concat([]byte{6, 0}, largest, hello)
	both := slices.Concat([]byte{6}, largest, largest, hello)
	return [][]byte{append(crypto(0, hello[:20]), tooFar...), tooLong, both}
}
