//go:build linux

package lockdown

import (
	"fmt"
	"runtime/debug"
	"runtime/metrics"

	"golang.org/x/sys/unix"
)

// MemoryMax is how much memory a data path may have, in octets: all that is mapped for writing and its own. Beyond it the
// runtime gets none and the process ends with a traceback, and with it its sandbox, but none of the machine's other
// programs. A data path with all 8192 idle flows that it may have uses a tenth of it; what fills it are flows whose
// bytes nobody takes, thousands at a time.
const MemoryMax = 2 << 30

const (
	// memoryTarget is where the garbage collector begins to work harder.
	memoryTarget = MemoryMax / 2

	// memoryAlarm is where [OutOfMemory] gives the alarm.
	memoryAlarm = MemoryMax / 4 * 3
)

// limitMemory bounds the data segment, as the kernel calls it. The address space would be the wrong thing to bound: the
// runtime reserves much more than it ever uses. The kernel does not count what replaces a reservation before it is there, so
// the heap may overshoot by the one step in which it grows, which is 64 MiB.
func limitMemory() error {
	debug.SetMemoryLimit(memoryTarget)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: MemoryMax, Max: MemoryMax}); err != nil {
		return fmt.Errorf("lock down: memory limit: %w", err)
	}
	return nil
}

// OutOfMemory reports whether so much of [MemoryMax] is in use, in octets, that it is time to end in an orderly way.
func OutOfMemory() (used uint64, soon bool) {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	used = samples[0].Value.Uint64() - samples[1].Value.Uint64()
	return used, used > memoryAlarm
}
