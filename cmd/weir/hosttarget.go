//go:build linux && !client

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/container"
	"github.com/weir-dev/weir/tproxy/rules"
)

// hostTarget is what the door stands before: a bridge, one port of a bridge, or a link without a bridge.
type hostTarget struct {
	bridge string // "" for a link without one
	port   string // "" for all of the bridge
	path   string // of the network namespace behind the port
}

// name is that of the lock and the tables.
func (t hostTarget) name() string {
	if t.bridge != "" {
		return t.bridge
	}
	return t.port
}

func (t hostTarget) rules() rules.HostConfig {
	if t.bridge == "" {
		return rules.HostConfig{Link: t.port, Single: true}
	}
	return rules.HostConfig{Link: t.bridge, Only: t.port}
}

// findTarget finds out what --bridge and --netns mean.
func (u *hostUp) findTarget() error {
	if u.bridge != "" {
		u.target = hostTarget{bridge: u.bridge}
		return nil
	}
	path := netnsPath(u.netns)
	a, err := rules.Attached(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--netns %s: there is no %s", u.netns, path)
	case err != nil:
		return fmt.Errorf("--netns %s: %w", u.netns, err)
	}
	u.target = hostTarget{bridge: a.Bridge, port: a.Port, path: path}
	return nil
}

// netnsPath is the path of a network namespace that is given as a process id, a name or a path.
func netnsPath(text string) string {
	if _, err := strconv.ParseUint(text, 10, 32); err == nil {
		return filepath.Join("/proc", text, "ns/net")
	}
	if strings.Contains(text, "/") {
		return text
	}
	return filepath.Join("/run/netns", text)
}

// lookEvery is how often a link without a bridge is looked at.
const lookEvery = time.Second

// watch calls changed with who is behind the ports, at once and whenever it is different, until ctx ends, or the link without a
// bridge is gone. Whatever else keeps it from seeing is told to blind, and it looks again later: a container can bring that
// about (with more processes than are looked at, for one), and must not end the door by it. A bridge that is gone comes back:
// engines remove it with the last container, and make it anew for the next.
func (t hostTarget) watch(ctx context.Context, finder *container.Finder, changed func([]container.Container), blind func(error)) error {
	seen := false
	for {
		err := t.see(ctx, finder, func(list []container.Container) {
			seen = true
			changed(list)
		})
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case !seen:
			return err
		case t.bridge == "" && !isLink(t.port):
			return err
		case errors.Is(err, container.ErrNoBridge):
			changed(nil)
		}
		blind(err)
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
}

// isLink reports whether the host has a link of that name.
func isLink(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// see is watch until something keeps it from seeing.
func (t hostTarget) see(ctx context.Context, finder *container.Finder, changed func([]container.Container)) error {
	if t.bridge == "" {
		return t.watchLink(ctx, finder, changed)
	}
	return finder.Watch(ctx, t.bridge, func(list []container.Container) {
		if t.port == "" {
			changed(list)
			return
		}
		var only []container.Container
		for _, c := range list {
			if c.Port.Name == t.port {
				only = append(only, c)
			}
		}
		changed(only)
	})
}

// watchLink is see for a link without a bridge.
func (t hostTarget) watchLink(ctx context.Context, finder *container.Finder, changed func([]container.Container)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last container.Container
	for first := true; ; first = false {
		c, err := finder.Namespace(t.path)
		if err != nil {
			return err
		}
		a, err := rules.Attached(t.path)
		if err != nil {
			return err
		}
		c.Port.Name, c.MAC, c.Addresses = a.Port, a.MAC, finder.Routed(a.Index, a.Addrs)
		if a.Port != t.port {
			return fmt.Errorf("%s has another link now, %s", t.path, a.Port)
		}
		if first || !reflect.DeepEqual(c, last) {
			last = c
			changed([]container.Container{c})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
