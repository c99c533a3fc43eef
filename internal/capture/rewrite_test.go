package capture

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Changes to whole captures, for tests of what must not depend on them. Packets are taken apart by gopacket; those it
// does not know stay as they are. Checksums are not mended: nobody may look at them.

type timedFrame struct {
	link layers.LinkType
	at   time.Time
	data []byte
}

// rewrite changes the frames of a classic pcap.
func rewrite(b []byte, change func([]timedFrame) []timedFrame) []byte {
	r, err := pcapgo.NewReader(bytes.NewReader(b))
	must(err)
	var frames []timedFrame
	for {
		data, info, err := r.ReadPacketData()
		if err != nil {
			break
		}
		frames = append(frames, timedFrame{r.LinkType(), info.Timestamp, data})
	}
	var out bytes.Buffer
	w := pcapgo.NewWriter(&out)
	must(w.WriteFileHeader(MaxRecord, r.LinkType()))
	for _, f := range change(frames) {
		must(w.WritePacket(gopacket.CaptureInfo{Timestamp: f.at, CaptureLength: len(f.data), Length: len(f.data)}, f.data))
	}
	return out.Bytes()
}

// offsets are where the headers of a TCP segment are in its frame; ok is false for other frames.
func offsets(f timedFrame) (ip, tcp, data, end int, ok bool) {
	p := gopacket.NewPacket(f.data, f.link, gopacket.DecodeOptions{NoCopy: true, Lazy: true})
	l, isTCP := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	network := p.NetworkLayer()
	if !isTCP || network == nil || p.ErrorLayer() != nil || len(l.Payload) == 0 {
		return 0, 0, 0, 0, false
	}
	at := func(sub []byte) int { return cap(f.data) - cap(sub) }
	ip, tcp, data = at(network.LayerContents()), at(l.Contents), at(l.Payload)
	return ip, tcp, data, data + len(l.Payload), ip >= 0 && tcp > ip && data > tcp
}

// splitSegments cuts the data of TCP segments at random points.
func splitSegments(r *rand.Rand, frames []timedFrame) (out []timedFrame) {
	for _, f := range frames {
		ip, tcp, data, end, ok := offsets(f)
		if !ok || f.data[tcp+13]&flagSYN != 0 {
			out = append(out, f)
			continue
		}
		seq := binary.BigEndian.Uint32(f.data[tcp+4:])
		for at := data; at < end; {
			n := min(1+r.IntN(400), end-at)
			part := slices.Concat(f.data[:data], f.data[at:at+n])
			binary.BigEndian.PutUint32(part[tcp+4:], seq+uint32(at-data))
			if at+n < end {
				part[tcp+13] &^= flagFIN
			}
			if part[ip]>>4 == 4 {
				binary.BigEndian.PutUint16(part[ip+2:], uint16(len(part)-ip))
			} else {
				binary.BigEndian.PutUint16(part[ip+4:], uint16(len(part)-ip-40))
			}
			if ip >= 22 && f.link == layers.LinkTypeEthernet && binary.BigEndian.Uint16(part[12:]) <= 1500 {
				binary.BigEndian.PutUint16(part[12:], uint16(len(part)-14)) // 802.3 length
			}
			out = append(out, timedFrame{f.link, f.at, part})
			at += n
		}
	}
	return out
}

// shuffleNear puts every packet somewhere among its neighbours.
func shuffleNear(r *rand.Rand, frames []timedFrame) []timedFrame {
	const window = 6
	out := slices.Clone(frames)
	for at := 0; at < len(out); at += window {
		near := out[at:min(at+window, len(out))]
		r.Shuffle(len(near), func(i, j int) { near[i], near[j] = near[j], near[i] })
	}
	return out
}

// doubleSome repeats every third packet or so, at once or a little later.
func doubleSome(r *rand.Rand, frames []timedFrame) (out []timedFrame) {
	for i, f := range frames {
		out = append(out, f)
		if r.IntN(3) == 0 {
			out = append(out, frames[max(0, i-r.IntN(4))])
		}
	}
	return out
}

// rot13 changes the letters of a name and keeps its length.
func rot13(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z':
			return 'a' + (c-'a'+13)%26
		case 'A' <= c && c <= 'Z':
			return 'A' + (c-'A'+13)%26
		}
		return c
	}, s)
}

// renameAll changes plain names wherever they stand in a frame, the names of DNS questions, and those that stand in wire
// form in DNS over TCP, where a question may be spread over segments. It says which of the plain names it met.
func renameAll(b []byte, plain, questions []string) ([]byte, map[string]bool) {
	hits := make(map[string]bool)
	return rewrite(b, func(frames []timedFrame) []timedFrame {
		for _, f := range frames {
			if renameQuestion(f) {
				continue
			}
			for _, name := range plain {
				if replaceEvery(f.data, name) {
					hits[name] = true
				}
			}
			for _, name := range questions {
				wire := ""
				for _, label := range strings.Split(name, ".") {
					wire += string(rune(len(label))) + label
				}
				replaceEvery(f.data, wire)
			}
		}
		return frames
	}), hits
}

func replaceEvery(b []byte, name string) (found bool) {
	for i := 0; i+len(name) <= len(b); i++ {
		if strings.EqualFold(string(b[i:i+len(name)]), name) {
			copy(b[i:], rot13(string(b[i:i+len(name)])))
			i += len(name) - 1
			found = true
		}
	}
	return found
}

// renameQuestion changes the names of the questions of a DNS message over UDP.
func renameQuestion(f timedFrame) bool {
	p := gopacket.NewPacket(f.data, f.link, gopacket.DecodeOptions{NoCopy: true, Lazy: true})
	var b []byte
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.UDP:
			if isDNSPort(uint16(l.SrcPort)) || isDNSPort(uint16(l.DstPort)) {
				b = l.Payload
			}
		}
	}
	if len(b) < 12 {
		return false
	}
	count := int(binary.BigEndian.Uint16(b[4:]))
	at := 12
	for range count {
		for at < len(b) && b[at] != 0 && b[at] < 64 {
			end := min(at+1+int(b[at]), len(b))
			copy(b[at+1:end], rot13(string(b[at+1:end])))
			at = end
		}
		if at < len(b) && b[at] >= 64 {
			at++
		}
		at += 5
	}
	return true
}
