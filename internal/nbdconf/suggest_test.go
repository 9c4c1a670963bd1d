package nbdconf

import "testing"

func TestNearestKey(t *testing.T) {
	for word, want := range map[string]string{
		"read_only": "readonly", "READONLY": "readonly", "exportnme": "exportname", "fuaa": "fua", "copy-on-write": "copyonwrite",
		"maxconnection": "maxconnections", "x": "", "description": "", "exportname[de]": "exportname", "": "",
	} {
		if got := nearest(word, PerExport); got != want {
			t.Errorf("%q is like %q, want %q", word, got, want)
		}
	}
	if d := distance("kitten", "sitting"); d != 3 {
		t.Errorf("the distance is %d, want 3", d)
	}
}
