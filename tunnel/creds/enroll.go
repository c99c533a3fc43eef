package creds

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
)

// EnrollRequest is what a client brings to its enrolment.
type EnrollRequest struct {
	Token Token
	Name  string // the name that it would like; a token that has one counts for more
	ClientConfig
}

// Enrolled is what came of it.
type Enrolled struct {
	*Client

	// Skew is how far this machine's clock is ahead of the edge's; negative when it is behind. It is off by the time that
	// the answer took.
	Skew time.Duration
}

// Enroll brings a token over a connection that was made with [EnrollTLS], gets a certificate for a new key, keeps both, and
// closes the connection. Nothing is on the disk before the edge has granted it; then the directory's earlier credentials
// are replaced. The error is or wraps a [Refusal] when the edge gave none.
func Enroll(ctx context.Context, conn *quic.Conn, r EnrollRequest) (*Enrolled, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollTime)
	defer cancel()
	defer conn.CloseWithError(quic.ApplicationErrorCode(tunnel.OK), "")
	stop := context.AfterFunc(ctx, func() { conn.CloseWithError(quic.ApplicationErrorCode(tunnel.TimedOut), "") })
	defer stop()
	client := newClient(r.ClientConfig)
	if err := privateDir(r.Dir); err != nil { // the token is for one time: first what can fail here
		return nil, fmt.Errorf("enroll: %w", err)
	}
	key, request, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	answer, err := exchange(ctx, conn, &enrolRequest{token: r.Token.ID, secret: r.Token.secret, name: r.Name, request: request})
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", Explain(err))
	}
	if answer.refusal != 0 {
		return nil, fmt.Errorf("enroll: %w", answer.refusal)
	}
	cr, err := grantedTo(key, answer.chain)
	if err == nil && !slices.ContainsFunc(r.Token.pins(), func(p Pin) bool { return p.among(cr.pins()) }) {
		err = ErrPin
	}
	if err == nil && cr.identity.Client != answer.name {
		err = errors.New("the certificate has another name than the answer")
	}
	if err == nil {
		err = client.save(cr)
	}
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	client.take(cr)
	return &Enrolled{Client: client, Skew: client.clock().Sub(answer.at)}, nil
}

// enrollTime bounds an enrolment for the client.
const enrollTime = 10 * time.Second

// exchange sends the request and reads the answer.
func exchange(ctx context.Context, conn *quic.Conn, r *enrolRequest) (*enrolAnswer, error) {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(r.encode()); err != nil {
		return nil, err
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	b, err := readMessage(stream)
	if err != nil {
		return nil, err
	}
	return parseAnswer(b)
}

// privateDir makes a directory that is the user's alone, and sees that it is.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return checkPrivate(filepath.Clean(dir), fi)
}
