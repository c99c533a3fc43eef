//go:build linux

package lockdown

import (
	"errors"
	"fmt"
	"math"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
)

// The filter of the calls whose arguments matter is assembled here. The library's goes on to the next call of its list when
// the arguments of one did not match, and compares that call's number to the argument it has just loaded: whoever chooses the
// argument chooses the call it is taken for (go-seccomp-bpf 1.6.0).

// condition is one about an argument. The kernel may read 32 of its 64 bits; the high ones have to be zero in any case.
type condition struct {
	argument uint32
	test     bpf.JumpTest
	value    uint32
}

func equal(argument, value uint32) condition { return condition{argument, bpf.JumpEqual, value} }

// with says that one of the bits is set, without that none is.
func with(argument, bits uint32) condition    { return condition{argument, bpf.JumpBitsSet, bits} }
func without(argument, bits uint32) condition { return condition{argument, bpf.JumpBitsNotSet, bits} }

// permission allows one call when all conditions hold. A call may have several.
type permission struct {
	call       string
	conditions []condition
}

func where(call string, conditions ...condition) permission { return permission{call, conditions} }

// Offsets into struct seccomp_data (seccomp(2)), on a machine that is little-endian, as those of archInfo are.
const (
	offCall = 0
	offArgs = 16
)

// judgeArguments allows the calls of list when one of their permissions holds and does otherwise when none does. What is not in
// list goes on to the instructions behind.
func judgeArguments(info *arch.Info, list []permission, otherwise seccomp.Action) ([]bpf.Instruction, error) {
	blocks, order := map[string][]bpf.Instruction{}, []string(nil)
	for _, p := range list {
		if _, ok := info.SyscallNames[p.call]; !ok {
			continue // this architecture does not have it
		}
		if blocks[p.call] == nil {
			order = append(order, p.call)
		}
		blocks[p.call] = append(blocks[p.call], p.assemble()...)
	}
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offCall, Size: 4}}
	for _, call := range order {
		block := append(blocks[call], bpf.RetConstant{Val: uint32(otherwise)})
		if len(block) > math.MaxUint8 {
			return nil, fmt.Errorf("%s: %w", call, errors.New("too many permissions"))
		}
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.SyscallNames[call] | info.SeccompMask), SkipFalse: uint8(len(block))})
		prog = append(prog, block...) // every way through it ends in a return
	}
	return prog, nil
}

// assemble is the permission as instructions: a return when it holds, what follows otherwise.
func (p permission) assemble() []bpf.Instruction {
	const each = 4 // two words, a load and a jump for each
	size := each*len(p.conditions) + 1
	var prog []bpf.Instruction
	for _, c := range p.conditions {
		low := offArgs + 8*c.argument
		skip := func() uint8 { return uint8(size - len(prog) - 2) } // behind the jump that follows the load
		prog = append(prog, bpf.LoadAbsolute{Off: low + 4, Size: 4}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: skip()})
		prog = append(prog, bpf.LoadAbsolute{Off: low, Size: 4}, bpf.JumpIf{Cond: c.test, Val: c.value, SkipFalse: skip()})
	}
	return append(prog, bpf.RetConstant{Val: uint32(seccomp.ActionAllow)})
}
