//go:build linux && !client

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/container"
	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/tproxy/rules"
)

// restoreEvery is how often routes and settings are looked at, beside the rules, of which the kernel tells: whoever reloads
// the host's firewall or network may have removed them.
const restoreEvery = time.Second

// hostUp is "weir tproxy up": the launcher of the containers' data paths. It holds the rules and watches who is behind the
// ports; what containers send is read by their data paths only.
type hostUp struct {
	upFlags
	globals
	ui  *ui
	out io.Writer

	text   []byte // of the policy file
	file   *policy.File
	log    string // path of the event log
	target hostTarget
	lock   *hostLock
	finder *container.Finder
	rules  *rules.Host

	mu     sync.Mutex
	guests map[string]*hostProcess        // by port
	told   map[string]string              // what was said of ports without a guest
	unseen string                         // what was said of why nobody can be seen
	there  map[string]container.Container // who has a name, by port; nobody once weir is to end
	ready  bool
}

// run is the whole of it, in the order of time.
func (u *hostUp) run() (err error) {
	u.guests, u.told = map[string]*hostProcess{}, map[string]string{}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	for _, step := range []func() error{u.checkFlags, u.readPolicy, lockdown.HostLauncher, u.findTarget, u.takeLock} {
		if err := step(); err != nil {
			return err
		}
	}
	defer u.lock.close()
	if u.finder, err = container.New(); err != nil {
		return err
	}
	defer u.finder.Close()
	unlock := lockNumbers()
	u.rules, err = rules.OpenHost(u.target.rules())
	unlock()
	if err != nil {
		return err
	}
	u.warnOfFirewalls()
	failed := u.serve(signals)
	u.endGuests()
	return errors.Join(failed, u.rules.Close())
}

func (u *hostUp) checkFlags() error {
	switch {
	case (u.bridge == "") == (u.netns == ""):
		return usageError{hint(errors.New("want one of --bridge NAME and --netns PATH"), "weir tproxy up --help")}
	case !slices.Contains([]string{"", policy.ModeAudit, policy.ModeEnforce}, u.mode):
		return usageError{fmt.Errorf("--mode %q: want audit or enforce", u.mode)}
	}
	path := u.events
	if path == "" {
		dir, err := stateDir()
		if err != nil {
			return err
		}
		path = filepath.Join(dir, "events.jsonl")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("--events %s: %w", u.events, err)
	}
	u.log = path
	return nil
}

// readPolicy reads the file once, and makes the policy of each app, so that a broken one stops everything before anything
// is changed.
func (u *hostUp) readPolicy() error {
	if u.policyFile == "" {
		dir, err := xdgDir("XDG_CONFIG_HOME", ".config")
		if err != nil {
			return err
		}
		path := filepath.Join(dir, "weir", "weir.yaml")
		if _, err := os.Stat(path); err == nil {
			u.policyFile = path
		}
	}
	apps := []string{"container"}
	if u.policyFile != "" {
		var err error
		if u.text, err = policy.ReadFile(u.policyFile); err != nil {
			return err
		}
		if u.file, err = policy.ParseFile(u.policyFile, u.text); err != nil {
			return err
		}
		for _, app := range u.file.Apps {
			apps = append(apps, app.Name)
		}
	}
	for _, app := range apps {
		c, _ := u.policyOf(app, u.text, u.file)
		if _, err := c.make(nil); err != nil {
			return err
		}
	}
	return nil
}

func (u *hostUp) takeLock() (err error) {
	u.lock, err = lockHost(u.target.name())
	return err
}

// warnOfFirewalls says which chains of others stand behind the door.
func (u *hostUp) warnOfFirewalls() {
	chains, err := rules.InputDrops()
	if err != nil || len(chains) == 0 {
		return
	}
	m := u.rules.Marks()
	for _, chain := range chains {
		u.ui.warnf("nftables chain %s drops what it does not know: it has to accept what weir takes", chain)
		u.ui.fix(fmt.Sprintf("nft insert rule %s meta mark and %#x == %#x accept", chain, m.Mask, m.Door))
	}
}

// serve follows the containers until a signal, weir tproxy down, or until there is nothing left to follow.
func (u *hostUp) serve(signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watching := make(chan error, 1)
	go func() { watching <- u.target.watch(ctx, u.finder, u.changed, u.blind) }()
	defer func() {
		cancel()
		<-watching
	}()
	changes, watch, err := rules.Changes()
	if err != nil {
		return err
	}
	defer watch.Close()
	tick := time.NewTicker(restoreEvery)
	defer tick.Stop()
	lame := "" // what was said of why rules cannot be put back
	for {
		look := false
		select {
		case <-signals:
			return nil
		case <-u.lock.ended:
			return nil
		case err := <-watching:
			watching <- nil
			return err
		case <-tick.C:
			look = true
		case _, look = <-changes:
			if !look {
				changes = nil
			}
		}
		if !look {
			continue
		}
		again, err := u.rules.Restore()
		if err != nil { // the next tick tries again
			if lame != err.Error() {
				lame = err.Error()
				u.ui.warnf("look after the rules: %v", err)
			}
			continue
		}
		lame = ""
		if again {
			u.ui.warnf("somebody has removed or changed rules of weir's: they are back")
		}
	}
}

// blind says once why nobody can be seen. Those who are carried stay carried meanwhile: the rules hold them to the link that
// they were seen at.
func (u *hostUp) blind(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unseen != err.Error() {
		u.unseen = err.Error()
		u.ui.warnf("cannot see who is behind %s, and nobody new is carried: %v", u.target.name(), err)
	}
}

// changed makes the guests those that are there now.
func (u *hostUp) changed(list []container.Container) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unseen = ""
	there := map[string]container.Container{}
	u.there = there
	var refused []string
	for _, c := range list {
		if c.Err != nil {
			refused = append(refused, c.Port.Name)
			u.tell(c)
			continue
		}
		there[c.Port.Name] = c
	}
	maps.DeleteFunc(u.told, func(port, _ string) bool { return !slices.Contains(refused, port) })
	for port, p := range u.guests {
		if now, ok := there[port]; !ok || !p.stillFits(now) {
			u.remove(p)
		}
	}
	if err := u.rules.Refuse(refused); err != nil {
		u.ui.warnf("refuse ports: %v", err)
	}
	for _, c := range list {
		if c.Err != nil || u.guests[c.Port.Name] != nil {
			continue
		}
		u.add(c)
	}
	if !u.ready {
		u.ready = true
		u.announce()
	}
}

// tellAfter is for how long a port may have no guest before that is told: a container that comes or goes has none for a moment.
const tellAfter = 3 * time.Second

// tell says once why a port has no guest.
func (u *hostUp) tell(c container.Container) {
	text := c.Err.Error()
	if u.quiet || u.told[c.Port.Name] == text {
		return
	}
	u.told[c.Port.Name] = text
	time.AfterFunc(tellAfter, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.told[c.Port.Name] == text {
			u.ui.warnf("nothing is carried from %s", c)
		}
	})
}

// add begins to carry a container, or says why not and tries again later.
func (u *hostUp) add(c container.Container) {
	p, err := u.startGuest(c)
	if err != nil {
		u.ui.warnf("%s has no way out: %v", c, err)
		time.AfterFunc(againAfter, func() { u.again(c.Port.Name) })
		return
	}
	u.guests[c.Port.Name] = p
	if !u.quiet && u.ready {
		u.ui.sayf("carrying %s as %s", c, c.App())
	}
}

// remove shuts the door first.
func (u *hostUp) remove(p *hostProcess) {
	if err := u.rules.Remove(p.port()); err != nil {
		u.ui.warnf("%v", err)
	}
	p.end()
	delete(u.guests, p.port())
}

// endGuests ends all data paths; the rules stay, so that nothing leaves meanwhile.
func (u *hostUp) endGuests() {
	u.mu.Lock()
	defer u.mu.Unlock()
	var ending sync.WaitGroup
	for _, p := range u.guests {
		ending.Go(p.end)
	}
	u.there = nil
	ending.Wait()
	clear(u.guests)
}

// upStatus is what weir tproxy up says when it is up.
type upStatus struct {
	Link       string            `json:"link"`
	Table      string            `json:"table"`
	RouteTable int               `json:"route_table"`
	Mark       string            `json:"mark"`
	HoldsSYN   bool              `json:"holds_syn"`
	SwitchedTo []string          `json:"switched_off"`
	Containers []containerStatus `json:"containers"`
}

type containerStatus struct {
	App, ID, Runtime, Image, Port string
	Addresses                     []string
}

// MarshalJSON writes the names of the contract.
func (c containerStatus) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"app": c.App, "id": c.ID, "runtime": c.Runtime, "image": c.Image, "port": c.Port, "addresses": c.Addresses})
}

func (u *hostUp) announce() {
	s := upStatus{Link: u.target.name(), Table: rules.TableName(u.target.name()), RouteTable: u.rules.RouteTable(),
		Mark: fmt.Sprintf("%#x/%#x", u.rules.Marks().Door, u.rules.Marks().Mask), HoldsSYN: u.rules.Holds(),
		SwitchedTo: append([]string{}, u.rules.Changed()...), Containers: []containerStatus{}}
	for _, p := range u.guests {
		c := p.container
		one := containerStatus{App: c.App(), ID: c.ID, Runtime: c.Runtime, Image: c.Image, Port: c.Port.Name, Addresses: []string{}}
		for _, a := range c.Addresses {
			one.Addresses = append(one.Addresses, a.String())
		}
		s.Containers = append(s.Containers, one)
	}
	slices.SortFunc(s.Containers, func(a, b containerStatus) int { return len(a.Port) - len(b.Port) })
	if u.json {
		json.NewEncoder(u.out).Encode(s)
		return
	}
	if u.quiet {
		return
	}
	for _, p := range u.guests {
		u.ui.sayf("carrying %s as %s", p.container, p.container.App())
	}
	for _, changed := range s.SwitchedTo {
		u.ui.warnf("%s is 0 as long as weir is up: the IP rules of others do not see frames on bridges", strings.TrimSuffix(changed, "=1"))
	}
	u.ui.sayf("up on %s: %d containers", s.Link, len(s.Containers))
}
