package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/dnbd/dnbd/internal/wire"
)

// OperateTLS is Operate for a server that knows the operator by the certificate in config.
func OperateTLS(ctx context.Context, address string, config *tls.Config, c wire.Command) ([]byte, error) {
	transport := &http.Transport{
		TLSClientConfig: config, DialContext: (&net.Dialer{Timeout: deafTime}).DialContext, TLSHandshakeTimeout: deafTime,
	}
	defer transport.CloseIdleConnections()
	u := url.URL{Scheme: "https", Host: address, Path: "/" + c.Verb.String(), RawQuery: url.Values{"image": {c.Name}}.Encode()}
	method := http.MethodPost
	if c.Verb == wire.VerbStatus {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%v at %s: %w", c.Verb, address, noServer(err))
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
	case len(text) > maxAnswer:
		err = fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	case answer.StatusCode != http.StatusOK:
		err = fmt.Errorf("the server says: %s", bytes.TrimSpace(text))
	default:
		return text, nil
	}
	return nil, fmt.Errorf("%v at %s: %w", c.Verb, address, err)
}
