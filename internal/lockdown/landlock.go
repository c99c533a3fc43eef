//go:build linux

package lockdown

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// signalsFixed is the erratum of ABI 6 without which threads of one process may not signal each other; the Go runtime
// needs to. The library does with ABI 5 then.
const signalsFixed = 1 << 1

// denyFiles puts all threads into a Landlock domain that may open, make, rename and remove nothing, and reach no process
// or abstract UNIX socket outside of it. It returns the ABI version in force, 0 where the kernel has no Landlock.
func denyFiles() (abi int, err error) { return confine() }

// confine is denyFiles but for the directories dirs, in which everything stays allowed.
func confine(dirs ...string) (abi int, err error) {
	abi, err = ll.LandlockGetABIVersion()
	if err != nil || abi <= 0 {
		return 0, nil
	}
	if abi >= 6 {
		if errata, err := ll.LandlockGetErrata(); err != nil || errata&signalsFixed == 0 {
			abi = 5
		}
	}
	all := landlock.V9 // the first that covers path-named UNIX sockets; later ones are about networks
	cfg, err := landlock.NewConfig(all.HandledAccessFS, all.Scoped)
	if err != nil {
		return 0, fmt.Errorf("lock down: landlock: %w", err)
	}
	if err := cfg.BestEffort().Restrict(landlock.RWDirs(dirs...).IgnoreIfMissing()); err != nil {
		return 0, fmt.Errorf("lock down: landlock: %w", err)
	}
	return min(abi, 9), nil
}
