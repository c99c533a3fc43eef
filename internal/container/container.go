//go:build linux

package container

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// What List, Check and Namespace can say besides errors of the system.
var (
	// ErrNoBridge says that there is no such link, or that it is no bridge.
	ErrNoBridge = errors.New("no such bridge")
	// ErrGone says that what was behind the port is not there any more, or another one is.
	ErrGone = errors.New("the container is gone")
	// ErrUnknown says that nobody could be named: the port is no veth, or no process and no mount shows its namespace.
	ErrUnknown = errors.New("nobody known is behind the port")
	// ErrContested says that all addresses of the container belong to another port.
	ErrContested = errors.New("its addresses are those of another port")
	// ErrElsewhere says that the host has a route to none of the container's addresses by the bridge.
	ErrElsewhere = errors.New("the host has no route to its addresses by the bridge")
	// ErrTooMany says that one of the bounds of this package was reached, and what lies beyond it was not looked at.
	ErrTooMany = errors.New("too many to look at")
)

// The engines that are known. RuntimeNone is a namespace that no engine made: `ip netns add`, for one.
const (
	RuntimePodman     = "podman"
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
	RuntimeKubernetes = "kubernetes"
	RuntimeNone       = "namespace"
)

// Port is the host's end of a container's link.
type Port struct {
	Index  int    // of the link; not used again while the host's namespace lives
	Name   string // as the host calls it
	Bridge int    // index of the bridge; 0 if it has none
	Peer   int    // index of the other end in its namespace; 0 if the port is no veth
	NSID   int    // what the kernel calls the other end's namespace; -1 if that is the host's own, or unknown
}

// Container is who is behind a port.
type Container struct {
	// Err says why this port has no identity: [ErrUnknown], [ErrGone], [ErrContested], [ErrElsewhere]. Of the other fields only Port is
	// good then, and Resolvers and Addresses are empty; such a port must get nothing.
	Err error

	Port      Port
	Interface string           // the link's name inside; the container may change it
	MAC       net.HardwareAddr // the link's address inside; the container may change it
	Addresses []netip.Addr     // those on the bridge by the host's routes, without those that another port had first; at most [maxAddresses]

	Runtime string // one of the Runtime constants
	ID      string // the engine's, 64 hexadecimal digits as a rule; of a namespace its mount's name or "net:[INODE]"
	Name    string // as the engine knows it; of a pod NAMESPACE.POD; the id's first 12 characters where no name is known
	Image   string // "" where it is not known
	// Labels are what the engine recorded where it can be read: Docker's labels, the annotations of the others (podman keeps
	// its labels in a database). Without those that have other than printable ASCII characters; at most [maxLabels]. An image
	// brings labels along, so they say nothing that the container's author could not have said.
	Labels map[string]string

	PID       int    // the first process of the namespace, 0 if it has none
	Process   string // its program, for people: the container chose it. "" if it is unknown
	Cookie    uint64 // of the namespace: never used again until the host restarts
	Resolvers []netip.Addr

	started uint64 // of the process, in ticks since the host started
	mount   string // where the namespace is mounted, if it has no process
}

// App is the name that the container has in policies and events: its Name if a policy file can hold that, otherwise what
// of it is left, with a digest of the whole so that no two names become one. "" if Err is set.
func (c Container) App() string {
	if c.Err != nil {
		return ""
	}
	return appName(c.Name)
}

// maxApp is the length of the longest app name that a policy knows, in octets.
const maxApp = 64

func appName(name string) string {
	clean := strings.TrimLeft(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, name), "._-")
	if clean == name && name != "" && len(name) <= maxApp {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	digest := "-" + hex.EncodeToString(sum[:6])
	if clean == "" {
		clean = "container"
	}
	return clean[:min(len(clean), maxApp-len(digest))] + digest
}

// String names the container in a line for people.
func (c Container) String() string {
	switch {
	case c.Err != nil:
		return fmt.Sprintf("port %q: %v", c.Port.Name, c.Err)
	case c.Runtime == RuntimeNone:
		return fmt.Sprintf("namespace %q at port %q", c.Name, c.Port.Name)
	}
	return fmt.Sprintf("%s container %q at port %q", c.Runtime, c.Name, c.Port.Name)
}
