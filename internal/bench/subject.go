//go:build linux

package bench

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Subject is one way of running a program with a network.
type Subject struct {
	// Name is what was found running; before that, what was asked for.
	Name string `json:"name"`
	// Variant tells apart subjects of one name: another build of weir, another MTU.
	Variant string `json:"variant,omitempty"`
	// Version is what the program says of itself.
	Version string `json:"version,omitempty"`
	// MTU is that of the interface that the client saw, in bytes.
	MTU int `json:"mtu,omitempty"`
	// Link is the kind of link that a weir took.
	Link string `json:"link,omitempty"`
	// Command is how it is started.
	Command string `json:"command,omitempty"`
	// Skipped is why it is not measured.
	Skipped string `json:"skipped,omitempty"`

	asked string // the name that it has to turn out to have

	// tunnel is the transport of the tunnel behind it, empty where there is none.
	tunnel string

	lack error // why it cannot even be started

	// target is the server's host as the client has to call it.
	target string

	// wrap is the command line that runs a program inside; dir is the instance's own directory. nil stands for slirp4netns,
	// which joins a namespace that is there.
	wrap func(dir string, program ...string) []string

	// look finds out the name of what runs.
	look func(r *running) (string, error)
}

// Label names the subject in a table.
func (s *Subject) Label() string {
	if s.Variant == "" {
		return s.Name
	}
	return s.Name + " " + s.Variant
}

// eventsFile is a weir's log, in the directory of the instance.
const eventsFile = "events.jsonl"

// subjects returns host, each door of each build, and the peers asked for, in this order.
func (b *Bench) subjects() []*Subject {
	all := []*Subject{{Name: "host", Version: "no sandbox", target: "127.0.0.1", look: lookHost,
		wrap: func(_ string, program ...string) []string { return program }}}
	for _, build := range b.config.Builds {
		for _, door := range b.config.Doors {
			all = append(all, b.weir(build, door))
		}
		if !b.config.Tunnel {
			continue
		}
		for _, transport := range []string{overQUIC, overWebSocket} {
			for _, door := range b.config.Doors {
				all = append(all, b.tunnelled(build, door, transport))
			}
		}
	}
	for _, name := range b.config.Peers {
		all = append(all, peer(name))
	}
	for _, s := range all {
		s.asked = s.Name
		if s.Command == "" && s.wrap != nil {
			s.Command = b.anonymous(s.wrap(filepath.Join(b.dir, "0"), "CMD"))
		}
	}
	return all
}

// weir is a build of weir with one of its doors. The policy is enforced and has a rule for the server, the flows are sniffed
// and recorded.
func (b *Bench) weir(build Build, door string) *Subject {
	s := &Subject{Name: door, Variant: build.Label, target: "host.weir.internal", look: lookWeir}
	binary, err := filepath.Abs(build.Path)
	if err != nil {
		s.lack = err
		return s
	}
	s.Version = firstLine(binary, "--version")
	s.wrap = func(dir string, program ...string) []string {
		return slices.Concat([]string{binary, "run", "-q", "--door", door, "--name", "bench", "--mode", "enforce",
			"--allow", fmt.Sprint("host.weir.internal:", b.port), "--events", filepath.Join(dir, eventsFile),
			"--share", filepath.Dir(b.self) + ":ro", "--"}, program)
	}
	return s
}

// anonymous writes a command without what differs from run to run and from machine to machine.
func (b *Bench) anonymous(line []string) string {
	line = slices.Clone(line)
	for i := range b.config.Builds {
		if path, _ := filepath.Abs(b.config.Builds[i].Path); line[0] == path {
			line[0] = "weir"
		}
	}
	return strings.NewReplacer(filepath.Join(b.dir, "0"), "DIR", b.dir, "DIR", fmt.Sprint(b.port), "PORT").Replace(strings.Join(line, " "))
}

// firstLine is what a program says, for a while: a peer's --version must not hang the run.
func firstLine(name string, args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 100 * time.Millisecond
	out, _ := cmd.Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
