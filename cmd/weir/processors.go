//go:build linux && !client

package main

import "runtime"

// maxProcessors is the most that one data path uses of a machine: a core carries about two gigabytes a second.
const maxProcessors = 4

// processors is how many threads run a data path's code at once. In the netstack a packet wakes one goroutine after another;
// on threads of their own each of them would have to be woken by the kernel, which costs more than it wins: half of the
// machine. With the kernel's TCP a flow is one goroutine: all of it. What one sandbox's flood can take from its neighbours is
// bounded by it, too.
func processors(door string) int {
	n := runtime.NumCPU()
	if door == "netstack" {
		n /= 2
	}
	return max(1, min(maxProcessors, n))
}
