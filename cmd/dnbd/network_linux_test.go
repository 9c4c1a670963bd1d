package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inNetwork is a shell command that is run in a network namespace of its own, with nothing but a loopback interface that
// carries multicast. Users other than root get a user namespace, in which they may do this.
func inNetwork(script string, args ...string) *exec.Cmd {
	const up = "ip link set lo up && ip route add 224.0.0.0/4 dev lo && "
	cmd := exec.Command("/bin/sh", append([]string{"-c", up + script, "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
	}
	return cmd
}

// runInNetwork runs the scripts in a network namespace and reports how that went. It says whether one could be made.
func runInNetwork(t *testing.T) bool {
	if out, err := inNetwork("true").CombinedOutput(); err != nil {
		t.Logf("no network namespace: %v: %s", err, out)
		return false
	}
	cmd := inNetwork(`exec "$@"`, append([]string{os.Args[0]}, scriptFlags()...)...)
	cmd.Env = append(os.Environ(), networkVariable+"=1")
	out, err := cmd.CombinedOutput()
	if testing.Verbose() || err != nil {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Errorf("in a network namespace: %v", err)
	}
	return true
}
