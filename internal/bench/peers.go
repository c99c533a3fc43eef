//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// peerKind is how one of the peers is started, as its own manual says for "run this program with a network". Its host's
// loopback has an address inside, which each of the manuals names.
type peerKind struct {
	name, program, target string
	also                  string   // how else the program calls itself: pasta runs passt again, for the processor that is there
	line                  []string // before the program; DIR is the instance's directory
	mtu                   string   // the flag for another MTU, before the number
	helper                bool     // joins a namespace that is there (slirp4netns)
}

// gatewayAddress is the default gateway of the playground's host. pasta gives the namespace the host's addresses and
// routes, and takes what is sent to the gateway to the host's loopback (passt(1), --no-map-gw).
const gatewayAddress = "192.0.2.1"

var peerKinds = []peerKind{
	{name: "pasta", program: "pasta", also: "passt", target: gatewayAddress, line: []string{"pasta", "--config-net"}, mtu: "--mtu="},
	{name: "slirp4netns", program: "slirp4netns", target: "10.0.2.2", helper: true},
	{name: "gvisor-tap-vsock", program: "rootlesskit", target: "10.0.2.1",
		line: []string{"rootlesskit", "--state-dir=DIR/rk", "--net=gvisor-tap-vsock", "--copy-up=/etc"}, mtu: "--mtu="},
}

// PeerNames are the peers that can be measured and are unless others are named: at their default MTU, and where a target
// speaks of another, at that.
func PeerNames() []string {
	return []string{"pasta", "slirp4netns", "gvisor-tap-vsock-1500", "gvisor-tap-vsock"}
}

// CheckPeer says whether name is that of a peer: NAME, or NAME-MTU where the MTU can be chosen.
func CheckPeer(name string) error {
	_, _, err := parsePeer(name)
	return err
}

// parsePeer finds the kind and the MTU, 0 for the default one.
func parsePeer(name string) (peerKind, int, error) {
	for _, k := range peerKinds {
		rest, ok := strings.CutPrefix(name, k.name)
		if !ok {
			continue
		}
		if rest == "" {
			return k, 0, nil
		}
		mtu, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
		if rest[0] != '-' || err != nil || mtu < 576 || mtu > 65535 || k.mtu == "" {
			break
		}
		return k, mtu, nil
	}
	return peerKind{}, 0, fmt.Errorf("unknown peer %q: want pasta, slirp4netns or gvisor-tap-vsock, the first and the last also with an MTU (pasta-1500)", name)
}

// peer is the subject of that name.
func peer(name string) *Subject {
	k, mtu, err := parsePeer(name)
	s := &Subject{Name: k.name, target: k.target, look: lookProcess}
	if err != nil {
		s.Name, s.lack = name, err
		return s
	}
	line := k.line
	if mtu != 0 {
		s.Variant = fmt.Sprint(mtu)
		line = append(slices.Clone(line), k.mtu+s.Variant)
	}
	if k.helper {
		s.Command = "slirp4netns --configure PID tap0"
	} else {
		s.wrap = func(dir string, program ...string) []string {
			out := append(slices.Clone(line), "--")
			for i := range out {
				out[i] = strings.Replace(out[i], "DIR", dir, 1)
			}
			return append(out, program...)
		}
	}
	if k.program == "rootlesskit" {
		s.look = lookRootlesskit
	}
	path, err := exec.LookPath(k.program)
	if err != nil {
		s.lack = fmt.Errorf("%s is not installed", k.program)
		return s
	}
	s.Version = peerVersion(path)
	return s
}

// peerVersion is what the program says of itself, and the package it came in where that is all there is to know.
func peerVersion(path string) string {
	said := firstLine(path, "--version")
	if said != "" && !strings.Contains(said, "unknown") {
		return said
	}
	pkg := firstLine("dpkg-query", "--search", path)
	name, _, _ := strings.Cut(pkg, ":")
	if v := firstLine("dpkg-query", "--show", "--showformat=${Package} ${Version}", name); name != "" && v != "" {
		return v
	}
	return said
}

// mapperDir is where writeMappers puts them, on the PATH of every subject.
const mapperDir = "mappers"

// writeMappers stands in for newuidmap and newgidmap, without which rootlesskit starts nothing. Theirs is a setuid program
// of the host's root, who is nobody in a playground; what is left is the caller's own id, and that anybody may map.
func writeMappers(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, script := range map[string]string{
		"newuidmap": "#!/bin/sh\necho \"$2 $3 1\" >\"/proc/$1/uid_map\"\n",
		"newgidmap": "#!/bin/sh\necho deny >\"/proc/$1/setgroups\" && echo \"$2 $3 1\" >\"/proc/$1/gid_map\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}
