//go:build linux

package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// vnetHdrLen is the size of struct virtio_net_hdr without the buffer count.
const vnetHdrLen = 10

// makeTap opens the TUN device inside the network namespace, which is where its TAP then is, and asks for frames with
// virtio_net_hdr and for segmentation offload.
func makeTap(spec Spec) (int, LinkInfo, error) {
	fail := func(what string, err error) (int, LinkInfo, error) {
		return -1, LinkInfo{}, &SetupError{Step: StepTap, Path: spec.TunPath, Err: fmt.Errorf("%s: %w", what, err)}
	}
	fd, err := unix.Open(spec.TunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", err)
	}
	req, err := unix.NewIfreq(linkName)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return fail("attach", err)
	}
	info := LinkInfo{Kind: "tap", VnetHdr: vnetHdrLen, MTU: spec.MTU}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
		unix.Close(fd)
		return fail("set header size", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		unix.Close(fd)
		return fail("set byte order", err)
	}
	// A persistent device loses its carrier when the last descriptor is closed, and is taken apart by the kernel in the
	// background when the namespace ends. Otherwise that close takes some 20 ms. Nobody can attach to it again: there is
	// no TUN device inside.
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		unix.Close(fd)
		return fail("set persistent", err)
	}
	// Without offload everything works, slower: the one thing that may be missing.
	const tso, uso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6, unix.TUN_F_USO4 | unix.TUN_F_USO6 // USO is of Linux 6.2
	info.USO = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|uso) == nil
	info.TSO = info.USO || unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso) == nil
	return fd, info, nil
}
