// Package event is the book: one line for every visit.
//
// An [Event] is one typed record (a flow judged, a flow ended, a DNS question, a sandbox started ...). Whoever sees the
// thing happen fills the struct and hands it to a [Sink]; from then on the event belongs to the sinks and nobody changes
// it. Emit never blocks and never encodes: the data path pays for a struct and one short critical section.
//
// [Log] is the sink that writes. Emit puts the event into a ring that is bounded in events and in bytes; one writer
// goroutine takes batches out, encodes them and writes them to a file (shared by many processes, rotated under flock) or
// to a descriptor that somebody gave us. What does not fit, because the disk is full, the reader stalled or the pipe
// broken, is dropped and counted per kind, and the exact count becomes a "dropped" event as soon as a line can be
// written again. [Report] is the sink that adds up, for the summary at the end of a run. [Tee] joins sinks.
//
// Every string in an event may have been chosen by an enemy: names from first bytes, DNS labels, command lines. They are
// escaped at each exit and nowhere else. [Event.AppendJSON] writes only printable characters (controls, bidirectional and
// other format characters as \uNNNN, octets that are not UTF-8 as the text \xNN), masks secrets in command lines and
// bounds the line; [Escape] and [WriteTable] do the same for terminals.
package event
