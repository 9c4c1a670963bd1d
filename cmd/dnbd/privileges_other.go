//go:build !linux

package main

var socketCapabilities, deviceCapabilities []int

// dropPrivileges does nothing: there are no capabilities here.
func dropPrivileges([]int) error { return nil }
