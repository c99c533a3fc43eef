// Package lockdown takes from a weir process what it does not need any more.
//
// The data path parses what the enemy sends: frames, DNS, TLS, QUIC, HTTP heads. Should a flaw in a parser or in the
// netstack hand the process to the enemy, it is to be worth little. So once everything is open, and before the program
// inside runs, the data path calls [DataPath], and from then on the kernel refuses it, on all threads and for good, to
//
//   - execute a program, or make memory executable (seccomp);
//   - open, make, rename or remove a file or directory (seccomp; by Landlock once more). What it needs of files it gets
//     as open descriptors from the launcher;
//   - make a socket other than TCP, UDP and ping to other hosts and the netlink socket that lists the host's addresses
//     (seccomp), so no UNIX socket, raw or packet socket, vsock; nor to listen on one;
//   - set socket options, issue ioctls and prctls other than those on a short list (seccomp, by argument);
//   - signal, trace or read the memory of another process (seccomp; Landlock's scopes once more), or be looked into by one
//     of the same user (it is not dumpable);
//   - gain a privilege (no_new_privs, no capabilities, not even root's);
//   - grow beyond [MemoryMax], or leave a core file behind.
//
// The filter is a list of what is allowed. What is not on it fails with EPERM: the Go runtime and libraries try newer calls
// first and fall back when refused, so a call that nobody thought of costs a feature and not a user's run. Calls that no
// code of ours can ever make, and that an attacker would, end the process instead (killCalls): there is no second try. A
// dead data path takes its sandbox along, so that is the closed state.
//
// Landlock adds little to the filter where the filter is right; it is there for the day when it is not. A kernel without
// Landlock is no reason to refuse to run, but is told: [DataPath] returns what holds, the sandbox-start event carries it,
// and weir doctor says what is missing. A kernel without seccomp filters is a reason.
//
// [Edge] does for the edge process what suits it: it opens files in the directory of its keys, and its log.
//
// [Launcher] does the part of this that suits a process which has to open and rename files at its end.
package lockdown
