//go:build linux

package engine

import (
	"fmt"
	"os/user"
	"slices"
	"strconv"

	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/dynidtools"
	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/idtools"

	"github.com/weir-dev/weir/sandbox"
)

// SubIDs returns the caller's subordinate ids: by getsubids(1), which asks whatever the host keeps them in, where that is
// installed and knows any, else from /etc/subuid and /etc/subgid. The caller's own id is never among them.
func SubIDs() (uids, gids []sandbox.IDRange, err error) {
	me, err := user.Current()
	if err != nil {
		return nil, nil, fmt.Errorf("find subordinate ids: %w", err)
	}
	uid, err := strconv.Atoi(me.Uid)
	if err != nil {
		return nil, nil, fmt.Errorf("find subordinate ids: %w", err)
	}
	gid, err := strconv.Atoi(me.Gid)
	if err != nil {
		return nil, nil, fmt.Errorf("find subordinate ids: %w", err)
	}
	u, g, err := dynidtools.GetSubIDRanges(uid, me.Username)
	if err != nil || len(u) == 0 || len(g) == 0 {
		u, g, err = idtools.GetSubIDRanges(uid, me.Username)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find subordinate ids: %w", err)
	}
	return ranges(u, uid), ranges(g, gid), nil
}

// ranges leaves out what cannot be mapped beside the caller's own id, and 0.
func ranges(list []idtools.SubIDRange, own int) []sandbox.IDRange {
	var out []sandbox.IDRange
	for _, r := range list {
		with := func(id int) bool { return r.Start <= id && id < r.Start+r.Length }
		overlaps := slices.ContainsFunc(out, func(o sandbox.IDRange) bool { return r.Start < o.Start+o.Count && o.Start < r.Start+r.Length })
		if r.Length > 0 && !with(own) && !with(0) && !overlaps {
			out = append(out, sandbox.IDRange{Start: r.Start, Count: r.Length})
		}
	}
	return out
}
