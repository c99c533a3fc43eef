// Package clientconfig rewrites the configuration files of MCP clients so that the servers in them start under weir, and
// undoes it.
//
// The files belong to people and to the clients, so as little as possible of them is touched: a file is parsed (JSON with
// comments and trailing commas), the servers that are started as programs are found, and their commands are replaced by
// edits at the byte offsets where they stand. Everything between the edits stays as it is, byte for byte.
//
//	"command": "npx",                     "command": "weir",
//	"args": ["-y", "pkg"],       ->       "args": ["run", "--name", "x", "--env", "KEY", "--", "npx", "-y", "pkg"],
//	"env": {"KEY": "v"}                   "env": {"KEY": "v"}
//
// Before a file is replaced its old content is kept beside it, in a file whose name carries the digest of the new content.
// Undo puts that content back as long as the file is still what wrapping made of it. When the client or a person has
// changed it since, each server's entry is turned back on its own.
package clientconfig
