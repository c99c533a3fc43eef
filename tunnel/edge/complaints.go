package edge

import (
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// What strangers can have written to the log: so many lines in a second, and so many at once.
const (
	complaintsPerSecond = 2
	complaintsBurst     = 50
)

// complaints are the lines of the log that strangers cause. What is over the bound is counted, and the next line says how many
// there were.
type complaints struct {
	lines  *rate.Limiter
	unsaid atomic.Uint64
}

func newComplaints() *complaints {
	return &complaints{lines: rate.NewLimiter(complaintsPerSecond, complaintsBurst)}
}

func (c *complaints) say(log logrus.FieldLogger, what string) {
	if !c.lines.Allow() {
		c.unsaid.Add(1)
		return
	}
	if n := c.unsaid.Swap(0); n > 0 {
		log = log.WithField("unsaid", n)
	}
	log.Warn(what)
}
