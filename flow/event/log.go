package event

import (
	"context"
	"errors"
)

// kindSlots is the number of counters: one for each kind that exists and one for all others.
const kindSlots = 8

// Log writes events as lines. Make one with [OpenFile] or [OpenFD].
type Log struct{}

// Limits bounds a [Log]. Zero fields stand for the defaults.
type Limits struct {
	// Events and Bytes bound what is queued: 8192 events, 8 MiB.
	Events, Bytes int

	// FileSize is when the file is rotated (64 MiB), Keep how many rotated files are kept (4).
	FileSize int64
	Keep     int
}

// OpenFile opens the log at path for appending.
func OpenFile(path string, limits Limits) (*Log, error) { return nil, errors.ErrUnsupported }

// OpenFD makes a log on an open descriptor. The descriptor is duplicated: the caller keeps and closes its own.
func OpenFD(fd uintptr, limits Limits) (*Log, error) { return nil, errors.ErrUnsupported }

// Emit queues the event. It never blocks.
func (l *Log) Emit(e *Event) {}

// Flush waits until all that was queued before has been written or dropped.
func (l *Log) Flush(ctx context.Context) error { return nil }

// Dropped returns how many events were dropped since the log was opened, by kind.
func (l *Log) Dropped() map[Kind]uint64 { return nil }

// Close writes what is queued, for at most two seconds, and closes the log. It may be called more than once.
func (l *Log) Close() error { return nil }
