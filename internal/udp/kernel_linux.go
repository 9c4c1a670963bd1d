package udp

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// corruptsEqualTrains reports whether the running kernel is one that mangles the UDP headers of a GSO send whose segments
// are all of one size, on some devices: Linux 7.0 to 7.1.4. It cannot be seen from here whether a device is affected.
func corruptsEqualTrains() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return equalTrainsCorruptedBy(unix.ByteSliceToString(u.Release[:]))
}

func equalTrainsCorruptedBy(release string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch); n < 2 {
		return false
	}
	return major == 7 && (minor == 0 || minor == 1 && patch <= 4)
}
