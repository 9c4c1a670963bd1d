//go:build !linux

package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// socketDialer opens TCP and unix sockets.
func socketDialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}
}

func dialVsock(context.Context, string, uint32) (net.Conn, error) {
	return nil, fmt.Errorf("dial vsock: only Linux has these sockets here: %w", errors.ErrUnsupported)
}
