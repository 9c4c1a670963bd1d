//go:build !linux

package main

import "testing"

// runInNetwork says that there are no network namespaces.
func runInNetwork(*testing.T) bool { return false }
