//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// When Watch looks again. An engine makes the link first and gives it addresses and a process later, inside, where no event
// comes from: so after each event it looks a few times, and once in a while without one.
const (
	lookSoonest = 50 * time.Millisecond // between two looks, however many events come
	lookAlways  = 3 * time.Second
)

var lookAfter = [...]time.Duration{lookSoonest, 200 * time.Millisecond, 500 * time.Millisecond, time.Second}

// Watch calls changed with who is behind the ports of the bridge: at once, and whenever it is different. It returns when ctx
// ends, with nil, or when the bridge is gone or the kernel does not answer, with that error. changed is called by one
// goroutine, which waits for it; the list is the callee's.
func (f *Finder) Watch(ctx context.Context, bridge string, changed func([]Container)) error {
	events, err := subscribe()
	if err != nil {
		return err
	}
	defer events.close()
	var last []Container
	for first := true; ; first = false {
		list, err := f.List(bridge)
		if err != nil {
			return err
		}
		if first || !slices.EqualFunc(list, last, same) {
			last = list
			changed(slices.Clone(list))
		}
		if err := events.next(ctx); err != nil || ctx.Err() != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// same reports whether two readings say the same; errors are compared by what they say.
func same(a, b Container) bool {
	if (a.Err == nil) != (b.Err == nil) || a.Err != nil && a.Err.Error() != b.Err.Error() {
		return false
	}
	if !maps.Equal(a.Labels, b.Labels) {
		return false
	}
	a.Err, b.Err, a.Labels, b.Labels = nil, nil, nil, nil
	return reflect.DeepEqual(a, b)
}

// events are the kernel's messages about links, addresses, neighbours (with the bridge's table) and namespace ids.
type events struct {
	socket *nl.NetlinkSocket
	came   chan struct{}
	failed chan error
	pauses []time.Duration // before the next looks that follow the last event
}

func subscribe() (*events, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_NSID)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link events: %w", err)
	}
	e := &events{socket: socket, came: make(chan struct{}, 1), failed: make(chan error, 1)}
	go func() {
		for {
			// What a message says is not read, as the lists are read again. One that was lost (ENOBUFS) is an event too.
			if _, _, err := socket.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				e.failed <- fmt.Errorf("receive link events: %w", err)
				return
			}
			select {
			case e.came <- struct{}{}:
			default:
			}
		}
	}()
	return e, nil
}

// close ends the goroutine.
func (e *events) close() {
	e.socket.Close()
	<-e.failed
}

// next waits until it is time to look again.
func (e *events) next(ctx context.Context) error {
	pause := lookAlways
	if len(e.pauses) > 0 {
		pause, e.pauses = e.pauses[0], e.pauses[1:]
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case err := <-e.failed:
		e.failed <- err
		return err
	case <-e.came:
		e.pauses = lookAfter[1:]
		select { // so that events that come one after the other are one look
		case <-ctx.Done():
		case <-time.After(lookSoonest):
		}
	}
	return nil
}
