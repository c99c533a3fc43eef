//go:build linux

package lockdown

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// MemoryMax is how much memory a data path may have, in octets: all that is mapped for writing and its own. Beyond it the
// runtime gets none and the process ends, and with it its sandbox, but none of the machine's other programs.
const MemoryMax = 2 << 30

// memoryTarget is where the garbage collector begins to work harder to stay below it.
const memoryTarget = MemoryMax / 2

// limitMemory bounds the data segment, as the kernel calls it. The address space would be the wrong thing to bound: the
// runtime reserves much more than it ever uses.
func limitMemory() error {
	debug.SetMemoryLimit(memoryTarget)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: MemoryMax, Max: MemoryMax}); err != nil {
		return fmt.Errorf("lock down: memory limit: %w", err)
	}
	return nil
}
