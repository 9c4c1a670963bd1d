package boot_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever stands in dnbd= on the kernel's command line, the shell that reads it takes it as words, runs none of them, and names an image or says
// why there is none.
func FuzzDnbdOnTheCommandLine(f *testing.F) {
	for _, word := range []string{
		"dnbd=:debian:cow=mem", "dnbd=[ff15::1]:debian", "nbdroot=10.0.0.1,disk,nbd0", "dnbd=:$(>made)", "dnbd=:`>made`", "dnbd=:x:a;>made",
		"dnbd=x:*", "dnbd=:x:*,?,[a-z]*", "dnbd='", "dnbd=\\", "dnbd=:x:-n,-e", "nbdroot=", "nbdroot=*,[", "dnbd=:x:overlay=$dnbd_why",
	} {
		f.Add(word)
	}
	script, err := filepath.Abs("dnbd-root.sh")
	if err != nil {
		f.Fatal(err)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		f.Skip(err)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if strings.ContainsRune(word, 0) {
			return // no argument has one
		}
		dir := t.TempDir()
		cmd := exec.Command(shell, "-c", ". $0; dnbd_parse \"$1\" && echo image || echo no: $dnbd_why", script, word)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "image\n") && !strings.HasPrefix(string(out), "no: ") {
			t.Errorf("%q: %v: %q", word, err, out)
		}
		if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
			t.Errorf("%q was run: %v, %v", word, made, err)
		}
	})
}
