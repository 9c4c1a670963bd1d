//go:build !unix

package main

// spareClient has nothing to do where there is no inetd.
func spareClient() (spared bool, err error) { return false, nil }
