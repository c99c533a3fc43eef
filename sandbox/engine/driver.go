//go:build linux

package engine

import (
	"context"
	"net"

	"github.com/rootless-containers/rootlesskit/v3/pkg/api"
	"github.com/rootless-containers/rootlesskit/v3/pkg/messages"
	"github.com/rootless-containers/rootlesskit/v3/pkg/network"

	"github.com/weir-dev/weir/sandbox"
)

// driverName is what rootlesskit knows the driver by.
const driverName = "weir"

// parentDriver is rootlesskit's view of the network from outside. There is nothing to set up: the other end of the TAP
// is the data path's.
type parentDriver struct{ spec sandbox.Spec }

var _ network.ParentDriver = (*parentDriver)(nil)

// Info implements network.ParentDriver.
func (d *parentDriver) Info(context.Context) (*api.NetworkDriverInfo, error) {
	return &api.NetworkDriverInfo{Driver: driverName, DNS: d.dns(), ChildIP: d.spec.Addr4.AsSlice(), IPv6: d.spec.Addr6.IsValid()}, nil
}

// MTU implements network.ParentDriver.
func (d *parentDriver) MTU() int { return d.spec.MTU }

// ConfigureNetwork implements network.ParentDriver. The answer is for rootlesskit's records: the child's driver
// configures the link by the sandbox's own specification.
func (d *parentDriver) ConfigureNetwork(int, string, string) (*messages.ParentInitNetworkDriverCompleted, func() error, error) {
	m := &messages.ParentInitNetworkDriverCompleted{
		IP: d.spec.Addr4.String(), Netmask: 32, Gateway: d.spec.Gateway4.String(), MTU: d.spec.MTU,
	}
	for _, a := range d.dns() {
		m.DNS = append(m.DNS, a.String())
	}
	return m, func() error { return nil }, nil
}

func (d *parentDriver) dns() []net.IP {
	var list []net.IP
	for _, a := range d.spec.Nameservers {
		list = append(list, a.AsSlice())
	}
	return list
}

// childDriver makes the link in the inner network namespace.
type childDriver struct{}

var _ network.ChildDriver = (*childDriver)(nil)

// ConfigureNetworkChild implements network.ChildDriver.
func (*childDriver) ConfigureNetworkChild(*messages.ParentInitNetworkDriverCompleted, string) (string, error) {
	return sandbox.EngineNetwork()
}

// ChildDriverInfo implements network.ChildDriver.
func (*childDriver) ChildDriverInfo() (*network.ChildDriverInfo, error) {
	return &network.ChildDriverInfo{ConfiguresInterface: true}, nil
}
