//go:build !unix

package creds

import "os"

// checkPrivate leaves it to the system: what is below the user's profile is the user's.
func checkPrivate(string, os.FileInfo) error { return nil }

// syncDir has nothing to do where directories cannot be opened.
func syncDir(string) error { return nil }
