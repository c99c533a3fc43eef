package netstack

import (
	"unsafe"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// ReleaseTables gives back the memory of two tables that the packet dissector behind gvisor-tap-vsock's address pool fills
// when a process starts: 65536 entries each, 5 MB together, in each of the three processes of a run, and none of them
// ever looks into one. They read as zero afterwards. Call it once, first thing in main.
func ReleaseTables() {
	release(unsafe.Pointer(&layers.EthernetTypeMetadata), unsafe.Sizeof(layers.EthernetTypeMetadata))
	release(unsafe.Pointer(&layers.PPPTypeMetadata), unsafe.Sizeof(layers.PPPTypeMetadata))
}

// release gives the whole pages of a variable back to the kernel, which is as good as assigning its zero value to them. A
// kernel that refuses leaves it as it was.
func release(at unsafe.Pointer, size uintptr) {
	page := uintptr(unix.Getpagesize())
	skip := (page - uintptr(at)%page) % page
	if size < skip+page {
		return
	}
	whole := (size - skip) / page * page
	unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(at, skip)), whole), unix.MADV_DONTNEED)
}
