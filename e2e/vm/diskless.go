//go:build linux

package vm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// Userland is the path of the image of a Debian that scripts/build-userland.sh makes.
func Userland() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "dnbd", "userland", "bookworm.erofs"), err
}

// OverlayRoot is a script that mounts the Debian on the device $1 at /new, under a layer of its own in memory.
const OverlayRoot = `
	mkdir /ro /rw /new
	mount -t erofs -o ro $1 /ro
	mount -t tmpfs rw /rw
	mkdir /rw/upper /rw/work
	mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay /new`

// RootFromGroup makes an image of the group, a Debian in erofs, the guest's root, under a layer of its own in memory, and starts
// the init there. It takes the modules fuse, loop, overlay and erofs, and 512 MiB of memory.
func (g *Guest) RootFromGroup(ctx context.Context, image string) error {
	if err := g.MountFromGroup(ctx, image); err != nil {
		return err
	}
	return g.SwitchRoot(ctx, "/new", "/sbin/init")
}

// MountFromGroup is the first half of RootFromGroup: it mounts what is to be the root at /new.
func (g *Guest) MountFromGroup(ctx context.Context, image string) error {
	device, err := g.Run(ctx, "dnbd", "attach", "--driver", "fuse", "--cache-size", "128M", image)
	if err == nil {
		_, err = g.Run(ctx, "sh", "-ec", OverlayRoot, "sh", strings.TrimSpace(device))
	}
	return err
}

// LogIn waits for the login of the userland on the console, and logs in.
func (g *Guest) LogIn(ctx context.Context) error {
	if err := g.AwaitConsole(ctx, "diskless login:"); err != nil {
		return err
	}
	if err := g.Type("root\n"); err != nil {
		return err
	}
	return g.AwaitConsole(ctx, "root@diskless:~#")
}
