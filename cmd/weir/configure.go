//go:build linux && !client

package main

import (
	"errors"
	"os"
)

// configure gives a data path all that it needs to know, and waits until it is ready. explain says why it does not talk.
func configure(control *controlConn, cfg dataPathConfig, files []*os.File, explain func(error) error) error {
	if err := control.send(cfg, files...); err != nil {
		return explain(err)
	}
	var answer dataPathAnswer
	if _, err := control.receive(&answer); err != nil {
		return explain(err)
	}
	switch {
	case answer.Fix != "":
		return hint(errors.New(answer.Error), "%s", answer.Fix)
	case answer.Error != "":
		return errors.New(answer.Error)
	}
	return nil
}
