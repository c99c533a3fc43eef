//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"path"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// A second wall for CMD behind the mounts, by Landlock, where the kernel has it: what a mistake in the mounts or a
// descriptor of the host's tree would open stays shut, because only what lies below the new root is granted at all.
// It also does what mounts cannot:
//
//   - a descriptor that CMD was given is no more than it is: the host's file behind stdin, opened for reading, cannot be
//     opened again for writing by way of /proc/self/fd;
//   - signals stay inside: a process group shared with the caller for the sake of its terminal cannot be killed (ABI 6);
//   - a UNIX socket that someone outside binds in a share is not reachable, whenever it appears (ABI 9).
//
// It is put on the one thread that executes CMD. Init stays outside, so that it can signal CMD and not the other way.

// Versions of the Landlock ABI (landlock(7)) that bring something we use. Version 1 is not used: below it no file could
// be moved to another directory.
const (
	abiFiles       = 2
	abiTruncate    = 3
	abiDevices     = 5
	abiScopes      = 6
	abiUnixSockets = 9
)

const (
	landlockRead  = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSReadDir
	landlockWrite = ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSRefer |
		ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSym | ll.AccessFSMakeFifo | ll.AccessFSMakeSock
	landlockDevices = ll.AccessFSReadDir | ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSIoctlDev

	// landlockOfFile is what a rule for anything but a directory may speak of.
	landlockOfFile = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev | ll.AccessFSResolveUnix
)

// landlockABI is 0 where the kernel has no Landlock, or does not let us ask.
func landlockABI() int {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return abi
}

// landlockRuleset is what of Landlock a kernel of that ABI is asked to refuse unless a rule allows it.
func landlockRuleset(abi int) ll.RulesetAttr {
	var attr ll.RulesetAttr
	if abi >= abiFiles {
		attr.HandledAccessFS = landlockRead | landlockWrite&^ll.AccessFSTruncate | ll.AccessFSMakeChar | ll.AccessFSMakeBlock
	}
	for _, right := range []struct {
		since int
		files uint64
		scope uint64
	}{
		{abiTruncate, ll.AccessFSTruncate, 0},
		{abiDevices, ll.AccessFSIoctlDev, 0},
		{abiScopes, 0, ll.ScopeAbstractUnixSocket | ll.ScopeSignal},
		{abiUnixSockets, ll.AccessFSResolveUnix, 0},
	} {
		if abi >= right.since {
			attr.HandledAccessFS |= right.files
			attr.Scoped |= right.scope
		}
	}
	return attr
}

// landlockHeld names what restrictByLandlock holds on a kernel of that ABI.
func landlockHeld(abi int) (held []string) {
	for _, h := range []struct {
		since int
		what  string
	}{{abiFiles, HeldLandlockFiles}, {abiDevices, HeldLandlockDevices}, {abiScopes, HeldLandlockScopes}, {abiUnixSockets, HeldLandlockSockets}} {
		if abi >= h.since {
			held = append(held, h.what)
		}
	}
	return held
}

// grant is one rule: what may be done with a path and all below it.
type grant struct {
	path   string
	access uint64
	asked  bool // by the caller: it must exist
}

// landlockGrants are the rules for paths. With FS "host" the files are not what is protected.
func landlockGrants(spec Spec) []grant {
	if spec.FS == "host" {
		return []grant{{"/", landlockRead | landlockWrite, true}, {"/dev", landlockDevices, true}}
	}
	grants := []grant{
		{"/", landlockRead, true}, {"/dev", landlockDevices, true}, {"/dev/shm", landlockWrite, true},
		{"/tmp", landlockWrite, true}, {"/var/tmp", landlockWrite, true}, {"/run", landlockWrite, true},
		{path.Clean(spec.HomePath), landlockWrite, true},
	}
	for _, sh := range spec.Shares {
		if !sh.ReadOnly {
			grants = append(grants, grant{sh.Inside, landlockWrite, true})
		}
	}
	return grants
}

// restrictByLandlock puts the wall on the calling thread, which has no_new_privs. Where there is no Landlock it does
// nothing; see [Sandbox.Held].
func restrictByLandlock(spec Spec) error {
	fail := func(what string, err error) error {
		return &SetupError{Step: StepConfine, Path: "landlock " + what, Err: err}
	}
	attr := landlockRuleset(landlockABI())
	if attr == (ll.RulesetAttr{}) {
		return nil
	}
	rules, err := ll.LandlockCreateRuleset(&attr, 0)
	if err != nil {
		return fail("ruleset", err)
	}
	defer unix.Close(rules)
	for _, g := range landlockGrants(spec) {
		if err := grantPath(rules, g.path, g.access&attr.HandledAccessFS); err != nil {
			return fail(g.path, err)
		}
	}
	for _, sh := range spec.Shares { // one that is a socket was asked for by name
		if err := grantSocket(rules, sh.Inside, ll.AccessFSResolveUnix&attr.HandledAccessFS); err != nil {
			return fail(sh.Inside, err)
		}
	}
	for fd := range 3 {
		if err := grantStream(rules, fd, attr.HandledAccessFS); err != nil {
			return fail(fmt.Sprintf("stream %d", fd), err)
		}
	}
	if err := ll.LandlockRestrictSelf(rules, 0); err != nil {
		return fail("domain", err)
	}
	return nil
}

// scopeByLandlock keeps signals inside with profile engine, and by being a domain keeps root inside from looking into the
// processes that are not in it: PID 1 and what starts CMD. Rules for files are not for this profile: with them nobody may
// mount anything.
func scopeByLandlock() error {
	if landlockABI() < abiScopes {
		return nil
	}
	fail := func(err error) error { return &SetupError{Step: StepConfine, Path: "landlock scope", Err: err} }
	rules, err := ll.LandlockCreateRuleset(&ll.RulesetAttr{Scoped: ll.ScopeSignal | ll.ScopeAbstractUnixSocket}, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(rules)
	if err := ll.LandlockRestrictSelf(rules, 0); err != nil {
		return fail(err)
	}
	return nil
}

// grantPath adds a rule for what is at p.
func grantPath(rules int, p string, access uint64) error {
	if access == 0 {
		return nil
	}
	fd, err := unix.Open(p, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= landlockOfFile
	}
	return addGrant(rules, fd, access)
}

func grantSocket(rules int, p string, access uint64) error {
	if access == 0 || !isSocket(p) {
		return nil
	}
	return grantPath(rules, p, access)
}

// grantStream lets CMD open again what it has open already, in the way in which it is open: programs do that when they
// are told to write to /dev/stdout. A pipe needs no rule.
func grantStream(rules, fd int, handled uint64) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	access := uint64(ll.AccessFSIoctlDev)
	if mode := flags & unix.O_ACCMODE; mode != unix.O_WRONLY {
		access |= ll.AccessFSReadFile
	}
	if mode := flags & unix.O_ACCMODE; mode != unix.O_RDONLY {
		access |= ll.AccessFSWriteFile | ll.AccessFSTruncate
	}
	err = addGrant(rules, fd, access&handled)
	if errors.Is(err, unix.EBADFD) {
		return nil // of a file system that cannot be mounted, where Landlock has nothing to say
	}
	return err
}

func addGrant(rules, fd int, access uint64) error {
	if access == 0 {
		return nil
	}
	return ll.LandlockAddPathBeneathRule(rules, &ll.PathBeneathAttr{AllowedAccess: access, ParentFd: fd}, 0)
}
