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
	for _, pattern := range []string{"systemd/*", "../boot/systemd/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("there are no units %s: %v", pattern, err)
		}
		for _, file := range found {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.ReplaceAll(string(text), "=dnbd ", "=/bin/true ")
			if strings.HasSuffix(file, ".service") && changed == string(text) {
				t.Errorf("%s does not start dnbd", file)
			}
			name := strings.Replace(filepath.Base(file), "@.", "@films.", 1)
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			units = append(units, name)
		}
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
	// What is wrong would be seen.
	wrong := filepath.Join(dir, "wrong.service")
	if err := os.WriteFile(wrong, []byte("[Service]\nExecStart=/bin/true\nProtectSystme=strict\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if said := check(wrong); !strings.Contains(said, "ProtectSystme") {
		t.Errorf("a word that is misspelt is let through: %q", said)
	}
}
