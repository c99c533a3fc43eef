//go:build linux

package lockdown

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine runs a filter on calls that nobody makes. The instructions' own machine reads words in network order.
type machine struct {
	t    *testing.T
	vm   *bpf.VM
	arch uint32
}

func newMachine(t *testing.T, f filter) machine {
	t.Helper()
	program, err := f.assemble()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return machine{t, vm, uint32(f.info.ID)}
}

func (m machine) run(call int, args [6]uint64) uint32 {
	m.t.Helper()
	b := binary.BigEndian.AppendUint32(nil, uint32(call))
	b = binary.BigEndian.AppendUint32(b, m.arch)
	b = binary.BigEndian.AppendUint64(b, 0) // where it was called from
	for _, a := range args {
		b = binary.BigEndian.AppendUint32(b, uint32(a))
		b = binary.BigEndian.AppendUint32(b, uint32(a>>32))
	}
	action, err := m.vm.Run(b)
	if err != nil {
		m.t.Fatal(err)
	}
	return uint32(action)
}

// met is what a condition says, in plain words.
func met(c condition, arg uint64) bool {
	switch {
	case arg>>32 != 0:
		return false
	case c.test == bpf.JumpEqual:
		return uint32(arg) == c.value
	case c.test == bpf.JumpBitsSet:
		return uint32(arg)&c.value != 0
	}
	return uint32(arg)&c.value == 0
}

func permitted(list []permission, call string, args [6]uint64) bool {
	for _, p := range list {
		holds := p.call == call
		for _, c := range p.conditions {
			holds = holds && met(c, args[c.argument])
		}
		if holds {
			return true
		}
	}
	return false
}

// TestArguments: a call is allowed when one of its permissions holds, and no argument makes the filter take it for another
// call. The arguments are all that any condition or any call's number could be mistaken for, in every place.
func TestArguments(t *testing.T) {
	info, err := archInfo()
	if err != nil {
		t.Skip(err)
	}
	const pid = 4242
	for name, f := range map[string]filter{"data path": dataPathPolicy(info, pid, [2]uint32{unix.SOL_SOCKET, unix.SO_MARK}), "launcher": launcherPolicy(info)} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, f)
			values := []uint64{0, 1, pid, 1 << 32, pid | 1<<32, ^uint64(0), 0xffffffff}
			calls := map[string]bool{}
			for _, p := range f.permissions {
				calls[p.call] = true
				values = append(values, uint64(info.SyscallNames[p.call]), uint64(info.SyscallNames[p.call])|4) // 4 is PROT_EXEC
				for _, c := range p.conditions {
					values = append(values, uint64(c.value), uint64(c.value)|1<<32)
				}
			}
			for _, kill := range []string{"execve", "sendfile", "clone3"} {
				values = append(values, uint64(info.SyscallNames[kill]))
			}
			allowed, refused := 0, 0
			try := func(call string, args [6]uint64) {
				want := uint32(f.otherwise)
				if permitted(f.permissions, call, args) {
					want, allowed = uint32(seccomp.ActionAllow), allowed+1
				} else {
					refused++
				}
				if got := m.run(info.SyscallNames[call], args); got != want {
					t.Fatalf("%s%x: action %#x, want %#x", call, args, got, want)
				}
			}
			for call := range calls {
				for _, a := range values {
					for _, b := range values {
						try(call, [6]uint64{a, b, values[0], values[1]})
						try(call, [6]uint64{values[2], a, b})
						try(call, [6]uint64{a, 4096, b})
					}
				}
				for range 20000 {
					pick := func() uint64 { return values[rand.IntN(len(values))] }
					try(call, [6]uint64{pick(), pick(), pick(), pick(), pick(), pick()})
				}
			}
			if allowed == 0 || refused == 0 {
				t.Errorf("%d calls were allowed and %d refused: that shows nothing", allowed, refused)
			}
		})
	}
}

// TestArgumentsThenNames: what no permission is about is judged by its name.
func TestArgumentsThenNames(t *testing.T) {
	info, err := archInfo()
	if err != nil {
		t.Skip(err)
	}
	m := newMachine(t, dataPathPolicy(info, 1))
	for call, want := range map[string]uint32{
		"read": uint32(seccomp.ActionAllow), "execve": uint32(seccomp.ActionKillProcess), "openat": uint32(errnoAction(unix.EPERM)),
		"sendfile": uint32(errnoAction(unix.ENOSYS)),
	} {
		if got := m.run(info.SyscallNames[call], [6]uint64{}); got != want {
			t.Errorf("%s: action %#x, want %#x", call, got, want)
		}
	}
	m.arch++
	if got := m.run(info.SyscallNames["read"], [6]uint64{}); got != uint32(seccomp.ActionKillProcess) {
		t.Errorf("a call of another architecture: action %#x, want the end of the process", got)
	}
}
