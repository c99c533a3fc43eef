// Package attribution finds out which process inside a sandbox owns a flow, from outside of it.
//
// The way is: addresses to socket inode, by a question to the kernel's socket diagnostics on a netlink socket that was
// opened inside the sandbox's network namespace (or, without one, by reading /proc/PID/net); inode to process, by looking
// through the open files of the sandbox's processes; process to name, by its executable and command line.
//
// The answer is a label for people. It is read from outside while the process runs, so it is true of the process that
// holds the socket at that moment: a socket handed to another process, or one whose owner has ended, is reported as that
// or not at all. No verdict may depend on it.
//
// The caller needs the right to look at the processes (ptrace(2), PTRACE_MODE_READ): the same user id, with the sandbox
// in a user namespace below the caller's. Every lookup is bounded in work, and their number per second as well.
package attribution
