package main

import (
	"os"
	"runtime"
)

// limitProcessors gives either end of a tunnel half of the machine, unless GOMAXPROCS says otherwise. A packet of QUIC wakes one
// goroutine after another: on threads of their own each would have to be woken by the kernel. On two cores, with all of a
// tunnel's processes on them, one stream is 1.4 to 1.8 times as fast on one processor for each end.
func limitProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.NumCPU()/2))
	}
}
