//go:build linux

package gauntlet

import "slices"

func escapeRows() []Row {
	return slices.Concat(callRows(), namespaceRows(), mountRows(), familyRows(), kernelRows(), ipcRows())
}

// needsRoot is for attacks on files of the kernel that belong to uid 0: nobody else could open them in any case.
func needsRoot() string {
	if isRoot() {
		return ""
	}
	return "uid 0, whose files these are"
}
