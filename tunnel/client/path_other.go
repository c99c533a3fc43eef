//go:build !linux

package client

import "context"

// networkChanges is nil: changes are found by polling.
func networkChanges(context.Context) <-chan struct{} { return nil }
