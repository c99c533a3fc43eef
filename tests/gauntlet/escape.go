//go:build linux

package gauntlet

import "golang.org/x/sys/unix"

func escapeRows() []Row {
	return []Row{
		{
			ID: "escape/io-uring", Vector: "set up an io_uring, whose operations no system call filter sees", Right: "the call is not there",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error {
				var params [120]byte
				return errnoOf(unix.SYS_IO_URING_SETUP, 4, pointer(&params[0]), 0)
			},
		},
	}
}
