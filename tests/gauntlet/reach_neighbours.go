//go:build linux

package gauntlet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
)

// otherRows are about other sandboxes, and about what a sandbox offers.
func otherRows() []Row {
	return []Row{
		{
			ID: "reach/other-sandbox", Vector: "the port that another sandbox offers on the host's loopback", Right: "one sandbox does not reach another",
			Source: "Docker MCP Gateway (shared network)", Rules: audit,
			Prepare: startNeighbour,
			Attack: func(a *Attacker) error {
				if a.Args["serves"] != "" {
					return a.serveNeighbour()
				}
				port, err := strconv.Atoi(a.Args["port"])
				return errors.Join(err, a.tellAnyHost(port))
			},
			Harm: Heard,
		},
		{
			ID: "reach/published-uplink", Vector: "have a port offered on the host's loopback, and be called on it from the internet", Right: "it is offered on the loopback only",
			Source: "podman #24045",
			Prepare: func(s *Stage) error {
				s.choosePort()
				s.Flags = []string{"--publish", s.Args["port"]}
				return s.callIn()
			},
			Attack: (*Attacker).beCalled,
		},
	}
}

// choosePort sets Args["port"] to one that no other row has.
func (s *Stage) choosePort() {
	n, _ := strconv.ParseUint(s.Token[1:5], 16, 16)
	s.Args["port"] = strconv.Itoa(24_000 + int(n%8000))
}

// startNeighbour runs a server that hears: in a second sandbox of the same tool where that is weir, as a program of the
// host otherwise. Its port is on the host's loopback either way.
func startNeighbour(s *Stage) error {
	s.choosePort()
	told, err := json.Marshal(Attacker{ID: "reach/other-sandbox", Args: map[string]string{"port": s.Args["port"], "serves": "yes"}})
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(s.Dir), "attack")
	cmd := exec.Command(program, attackWord, string(told))
	if s.Weir != "" {
		cmd = exec.Command(s.Weir, "run", "-q", "--name", "neighbour", "--events", filepath.Join(s.Dir, "neighbour.jsonl"), "--publish", s.Args["port"],
			"--share", program+":"+inside+":ro", "--", inside, attackWord, string(told))
	}
	cmd.Env = append(os.Environ(), "HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir+"/data", "XDG_STATE_HOME="+s.Dir+"/state", "XDG_CONFIG_HOME="+s.Dir+"/config")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := playground.Start(cmd); err != nil {
		return fmt.Errorf("start neighbour: %w", err)
	}
	s.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == serving {
			go func() {
				for lines.Scan() {
					s.World.hear(nil, nil, lines.Bytes())
				}
			}()
			return nil
		}
	}
	return errors.New("the neighbour ended early")
}

const serving = "serving"

// serveNeighbour is what runs in the other sandbox: it prints what it is told.
func (a *Attacker) serveNeighbour() error {
	ln, err := net.Listen("tcp", ":"+a.Args["port"])
	if err != nil {
		return err
	}
	fmt.Println(serving)
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		b := make([]byte, 256)
		n, _ := c.Read(b)
		fmt.Println(string(b[:n]))
		fmt.Fprintln(c, "heard")
		c.Close()
	}
}

// hostAddress gives the host the stage's address, or takes it away.
func (s *Stage) hostAddress(up bool) error {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(s.Args["address"])
	if err != nil {
		return err
	}
	if up {
		return netlink.AddrAdd(link, addr)
	}
	return netlink.AddrDel(link, addr)
}

// addAddressWhenReady is the outside of reach/new-host-address.
func addAddressWhenReady(ctx context.Context, s *Stage) {
	soon(func() bool { return ctx.Err() != nil || s.World.Heard(s.Args["ready"]) })
	s.hostAddress(true)
}

// lookRows learn what an attacker of the host would like to know.
func lookRows() []Row {
	return []Row{
		{
			ID: "reach/socket-list", Vector: "list the services that listen on the host", Right: "the sandbox sees its own",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error {
				b, err := os.ReadFile("/proc/net/tcp")
				if err == nil && !strings.Contains(string(b), fmt.Sprintf(":%04X", HostLoopbackPort)) {
					err = errors.New("not there")
				}
				return err
			},
		},
		{
			ID: "reach/host-name", Vector: "learn the host's name", Right: "the sandbox has its own",
			Source: "security.md 2.5",
			Prepare: func(s *Stage) error {
				name, err := os.Hostname()
				s.Args["host"] = name
				return err
			},
			Lacks: func() string {
				if name, err := os.Hostname(); err != nil || name == "weir" {
					return "a name of its own"
				}
				return ""
			},
			Attack: func(a *Attacker) error {
				var u unix.Utsname
				if err := unix.Uname(&u); err != nil {
					return err
				}
				if unix.ByteSliceToString(u.Nodename[:]) != a.Args["host"] {
					return errors.New("another name")
				}
				return nil
			},
		},
	}
}
