//go:build !unix

package main

import "errors"

// becomeUser cannot make the process run as somebody else here.
func becomeUser(name, group string) error {
	if name != "" || group != "" {
		return errors.New("user and group: a process cannot become another user on this system; remove them")
	}
	return nil
}
