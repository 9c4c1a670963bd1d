// Package dist has what is installed beside the program.
package dist

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemdKnowsWhatTheUnitsSay has systemd read all units, with a dnbd that is there.
func TestSystemdKnowsWhatTheUnitsSay(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatal("DNBD_REQUIRE=1, and the program systemd-analyze is missing")
		}
		t.Skip("the program systemd-analyze is missing")
	}
	dir := t.TempDir()
	var units []string
	found, err := filepath.Glob("systemd/*")
	if err != nil || len(found) == 0 {
		t.Fatalf("there are no units: %v", err)
	}
	for _, file := range found {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.NewReplacer("=dnbd ", "=/bin/true ", "=@dnbd ", "=@/bin/true ").Replace(string(text))
		if strings.HasSuffix(file, ".service") && changed == string(text) {
			t.Errorf("%s does not start dnbd", file)
		}
		name := strings.Replace(filepath.Base(file), "@.", "@films.", 1)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		units = append(units, name)
	}
	check := func(unit string) string {
		cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":") // the system's own come after it
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			return err.Error()
		}
		return string(out)
	}
	for _, unit := range units {
		path := filepath.Join(dir, unit)
		if strings.Contains(unit, "@films") {
			path = unit // an instance is no file
		}
		if said := check(path); said != "" {
			t.Errorf("%s:\n%s", unit, said)
		}
	}
	// What faces the network can do little else. systemd counts what it could do, up to 100.
	for _, unit := range []string{"dnbd-server.service", "dnbd-boot.service"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=25", filepath.Join(dir, unit)).CombinedOutput()
		if err != nil {
			t.Errorf("%s is allowed too much: %v:\n%s", unit, err, out)
		}
	}
	// What is wrong would be seen.
	wrong := filepath.Join(dir, "wrong.service")
	if err := os.WriteFile(wrong, []byte("[Service]\nExecStart=/bin/true\nProtectSystme=strict\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if said := check(wrong); !strings.Contains(said, "ProtectSystme") {
		t.Errorf("a word that is misspelt is let through: %q", said)
	}
}
