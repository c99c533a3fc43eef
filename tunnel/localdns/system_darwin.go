package localdns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"time"

	"github.com/weir-dev/weir/internal/stub"
)

// scutilAge is how long the system's DNS configuration is taken to be what it was.
const scutilAge = 5 * time.Second

// configuration is what scutil last said.
type configuration struct {
	mu   sync.Mutex
	read time.Time
	list []scoped
}

// bind has the resolver ask the system's library, and the nameservers of the system's configuration.
func (r *Resolver) bind() {
	system := &configuration{}
	l := &library{lookup: net.DefaultResolver.LookupNetIP, servers: system.servers, client: &r.host.Client}
	r.ask, r.renew = l.exchange, system.forget
}

func (c *configuration) forget() {
	c.mu.Lock()
	c.read = time.Time{}
	c.mu.Unlock()
}

func (c *configuration) servers(ctx context.Context, name string) ([]stub.Conf, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) > scutilAge {
		out, err := exec.CommandContext(ctx, "/usr/sbin/scutil", "--dns").Output()
		if err != nil {
			return nil, fmt.Errorf("read the system's DNS configuration: %w", err)
		}
		c.list, c.read = parseScutil(bytes.NewReader(out)), time.Now()
	}
	return serversFor(c.list, name), nil
}
