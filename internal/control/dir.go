package control

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// suffix ends the name of a control socket.
const suffix = ".sock"

// maxName bounds the name of a control socket: on Linux the path of a unix socket has 107 bytes at most.
const maxName = 48

// Dir is where the control sockets of this user are: $DNBD_RUNDIR, else /run/dnbd for root, else $XDG_RUNTIME_DIR/dnbd,
// else a directory of the user's own beside the temporary files.
func Dir() string {
	if dir := os.Getenv("DNBD_RUNDIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/run/dnbd"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "dnbd")
	}
	return filepath.Join(os.TempDir(), "dnbd-"+strconv.Itoa(os.Geteuid()))
}

// MakeDir makes Dir, if it is missing, and returns it. One that other users can write to is an error.
func MakeDir() (string, error) {
	dir := Dir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of the control sockets: %w; DNBD_RUNDIR can name another", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("look at the directory of the control sockets: %w", err)
	}
	if !fi.IsDir() || !owned(fi) || fi.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s is not a directory that only this user can write to; remove it, or name another in DNBD_RUNDIR", dir)
	}
	return dir, nil
}

// Name makes of a device's path the name under which its process has its control socket and its log: /dev/dnbd0 is
// dnbd0, /tmp/a.sock is tmp_a.sock.
func Name(device string) string {
	name := strings.TrimPrefix(strings.TrimPrefix(filepath.Clean(device), "/dev/"), "/")
	name = strings.ReplaceAll(name, "/", "_")
	if len(name) > maxName {
		name = fmt.Sprintf("%08x_%s", crc32.ChecksumIEEE([]byte(device)), name[len(name)-maxName+9:])
	}
	return name
}

// Path is where the control socket called name is.
func Path(name string) string { return filepath.Join(Dir(), name+suffix) }

// sockets lists the control sockets in dir.
func sockets(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list control sockets: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 && filepath.Ext(e.Name()) == suffix {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}
