//go:build linux

package sandbox

import "os"

// IsInit says whether this process is the init of a sandbox: then main calls [InitMain] before anything else.
func IsInit() bool { return os.Args[0] == initName && os.Getpid() == 1 }

// InitMain is PID 1 of a sandbox. It never returns.
func InitMain() { os.Exit(125) }

const initName = "weir-init"
