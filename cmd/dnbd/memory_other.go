//go:build !linux

package main

import "errors"

// memoryDir needs Linux.
func memoryDir() (string, error) {
	return "", errors.New("overlays in memory need Linux's /dev/shm: name a file")
}
