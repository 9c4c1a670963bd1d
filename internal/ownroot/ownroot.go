// Package ownroot gives processes a root directory that stays when the machine's own hangs: a small one in memory, with the
// machine's /dev, /proc, /run and /sys, and a copy of /etc as it is. A process that brings back the device that carries the root
// must not look for anything there; and one that was started in an initramfs finds nothing there once the machine has left that.
package ownroot
