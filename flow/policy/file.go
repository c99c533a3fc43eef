package policy

// File is a parsed policy file.
type File struct{}

// LoadFile reads a policy file.
func LoadFile(path string) (*File, error) { panic("skeleton") }

// ParseFile parses the text of a policy file; name is used in errors.
func ParseFile(name string, data []byte) (*File, error) { panic("skeleton") }
