package netstack

import (
	"reflect"
	"unsafe"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// ReleaseTables gives back the memory of four tables that the packet dissector behind gvisor-tap-vsock's address pool fills
// when a process starts: 65536 entries each, 6 MB together, in each of the three processes of a run, and none of them
// ever looks into one. They read as zero afterwards. Call it once, first thing in main.
func ReleaseTables() {
	ethernet, ppp := &layers.EthernetTypeMetadata, &layers.PPPTypeMetadata
	releaseDecoders(ethernet[1].DecodeWith, ethernet[len(ethernet)-1].DecodeWith, len(ethernet))
	releaseDecoders(ppp[1].DecodeWith, ppp[len(ppp)-1].DecodeWith, len(ppp))
	release(unsafe.Pointer(ethernet), unsafe.Sizeof(*ethernet))
	release(unsafe.Pointer(ppp), unsafe.Sizeof(*ppp))
}

// releaseDecoders gives back a table of n words that has no name outside of its package: what the entries of the other tables
// point to, each at the word of its own number. second and last are such entries. Where the table is not laid out like that
// it is left alone.
func releaseDecoders(second, last any, n int) {
	const word = unsafe.Sizeof(uintptr(0))
	a, b := reflect.ValueOf(second), reflect.ValueOf(last)
	if a.Kind() != reflect.Pointer || b.Kind() != reflect.Pointer || a.Type() != b.Type() || a.Type().Elem().Size() != word || a.Pointer()+uintptr(n-2)*word != b.Pointer() {
		return
	}
	release(a.UnsafePointer(), uintptr(n-1)*word)
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
