// Package flow is the middle of weir: from "a flow arrived" to its line in the event log.
package flow
