//go:build unix

package main

import (
	"fmt"
	"os/user"
	"strconv"
	"syscall"
)

// becomeUser makes the process run as a user and a group, as far as they are not empty. Only root can, unless it does
// already.
func becomeUser(name, group string) error {
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("group = %s: %w", group, err)
		}
		gid, err := strconv.Atoi(g.Gid)
		if err != nil {
			return fmt.Errorf("group = %s: %w", group, err)
		}
		if gid != syscall.Getgid() || gid != syscall.Getegid() {
			if err := syscall.Setgid(gid); err != nil {
				return fmt.Errorf("group = %s: %w; start it as root, or remove the key", group, err)
			}
		}
	}
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("user = %s: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("user = %s: %w", name, err)
	}
	if uid == syscall.Getuid() && uid == syscall.Geteuid() {
		return nil
	}
	groups, err := memberships(u)
	if err != nil {
		return fmt.Errorf("user = %s: %w", name, err)
	}
	err = syscall.Setgroups(groups) // or it would keep root's
	if err == nil {
		err = syscall.Setuid(uid)
	}
	if err != nil {
		return fmt.Errorf("user = %s: %w; start it as root, or remove the key", name, err)
	}
	return nil
}

// memberships are the groups that a user is in.
func memberships(u *user.User) ([]int, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []int
	for _, id := range ids {
		gid, err := strconv.Atoi(id)
		if err != nil {
			return nil, err
		}
		groups = append(groups, gid)
	}
	return groups, nil
}
