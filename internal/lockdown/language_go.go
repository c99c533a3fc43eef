//go:build linux && !cgo

package lockdown

// languageCalls: Go needs nothing beyond what its runtime does.
func languageCalls() []string { return nil }
