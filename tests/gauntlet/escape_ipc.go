//go:build linux

package gauntlet

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// ipcRows are the kernel's other ways from process to process, which have a namespace of their own.
func ipcRows() []Row {
	return []Row{
		{
			ID: "escape/shared-memory", Vector: "attach System V shared memory of the host", Right: "its numbers mean nothing here",
			Prepare: func(s *Stage) error {
				id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
				if err != nil {
					return err
				}
				s.Defer(func() { unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
				b, err := unix.SysvShmAttach(id, 0, 0)
				if err != nil {
					return err
				}
				copy(b, s.Token)
				s.Args["id"] = strconv.Itoa(id)
				return unix.SysvShmDetach(b)
			},
			Attack: func(a *Attacker) error {
				id, _ := strconv.Atoi(a.Args["id"])
				b, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
				if err != nil {
					return err
				}
				return a.contains(b)
			},
		},
		{
			ID: "escape/message-queue", Vector: "open a POSIX message queue of the host", Right: "it is not there",
			Prepare: func(s *Stage) error {
				name, err := unix.BytePtrFromString(s.Token)
				if err != nil {
					return err
				}
				fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, pointer(name), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600, 0, 0, 0)
				if errno != 0 {
					return fmt.Errorf("mq_open: %w", errno)
				}
				s.Defer(func() {
					unix.Close(int(fd))
					errnoOf(unix.SYS_MQ_UNLINK, pointer(name), 0, 0)
				})
				return nil
			},
			Attack: func(a *Attacker) error {
				name, err := unix.BytePtrFromString(a.Token)
				if err != nil {
					return err
				}
				return errnoOf(unix.SYS_MQ_OPEN, pointer(name), unix.O_RDWR, 0)
			},
		},
	}
}
