//go:build linux

package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// With these settings on, frames on a bridge go through the IP hooks while they are still on it, and not again when they
// have left it: a socket that TPROXY gives such a packet is lost. There is no way around it, so they are switched off, for
// this network namespace, as long as a door is before a bridge. What they were is written down in the name of an empty
// chain in the door's own table, where it can neither get lost nor outlive the door.
var bridgeSysctls = []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"}

const (
	sysctlDir    = "/proc/sys/net/bridge/"
	recordPrefix = "restore-"
)

// sysctl is a setting and what it was.
type sysctl struct{ name, value string }

func (s sysctl) record() string { return recordPrefix + s.name + "-" + s.value }

// readRecords finds the settings that are written down in the tables, of any door.
func readRecords(tables []*nftables.Table) (list []sysctl, err error) {
	if len(tables) == 0 {
		return nil, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", told(err))
	}
	for _, c := range chains {
		text, isRecord := strings.CutPrefix(c.Name, recordPrefix)
		i := strings.LastIndexByte(text, '-')
		if !isRecord || i < 0 || !strings.HasPrefix(c.Table.Name, tablePrefix) {
			continue
		}
		s := sysctl{text[:i], text[i+1:]}
		if slices.Contains(bridgeSysctls, s.name) && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list, nil
}

// readSysctls notes what has to be changed, beside what another door has changed already.
func (h *Host) readSysctls() error {
	if h.cfg.Single {
		return nil
	}
	for _, name := range bridgeSysctls {
		value, err := os.ReadFile(sysctlDir + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		s := sysctl{name, strings.TrimSpace(string(value))}
		if s.value != "0" && !slices.ContainsFunc(h.records, func(r sysctl) bool { return r.name == name }) {
			h.records = append(h.records, s)
		}
	}
	return nil
}

// writeSysctls switches them off.
func (h *Host) writeSysctls() error {
	if h.cfg.Single {
		return nil
	}
	for _, s := range h.records {
		if err := os.WriteFile(sysctlDir+s.name, []byte("0\n"), 0); err != nil {
			return fmt.Errorf("switch net.bridge.%s off: %w", s.name, err)
		}
	}
	return nil
}

// sysctlsMoved reports whether somebody has switched one on again.
func (h *Host) sysctlsMoved() bool {
	if h.cfg.Single {
		return false
	}
	return slices.ContainsFunc(bridgeSysctls, func(name string) bool {
		value, err := os.ReadFile(sysctlDir + name)
		return err == nil && strings.TrimSpace(string(value)) != "0"
	})
}

// Changed are the settings that the door has switched off, as NAME=WHAT IT WAS.
func (h *Host) Changed() (list []string) {
	for _, s := range h.records {
		list = append(list, "net.bridge."+s.name+"="+s.value)
	}
	return list
}

// restoreSysctls puts back what they were, unless another bridge still has a door.
func (f found) restoreSysctls(link string) (restored []string, err error) {
	tables, _, err := listHost()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool {
		return t.Family == nftables.TableFamilyBridge && t.Name != TableName(link)
	}) {
		return nil, nil
	}
	for _, s := range f.sysctls {
		if err := os.WriteFile(sysctlDir+s.name, []byte(s.value+"\n"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return restored, fmt.Errorf("restore net.bridge.%s: %w", s.name, err)
		}
		restored = append(restored, fmt.Sprintf("setting net.bridge.%s=0 (it is %s again)", s.name, s.value))
	}
	return restored, nil
}
