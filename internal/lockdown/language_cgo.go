//go:build linux && cgo

package lockdown

// languageCalls are those of the C library for memory and threads.
func languageCalls() []string { return []string{"brk", "mremap", "set_robust_list", "rseq"} }
