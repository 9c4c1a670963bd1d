//go:build !linux

package boot

import (
	"context"
	"errors"
)

// listenDHCP fails: only Linux keeps a socket that hears broadcasts to one interface.
func listenDHCP(context.Context, Interface) ([]dhcpSocket, error) {
	return nil, errors.New("proxy-DHCP needs Linux; without it the DHCP server itself has to say what to boot")
}
