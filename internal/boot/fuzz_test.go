package boot

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Whatever a machine asks for by HTTP, or names by TFTP, it gets what is offered under just that name, or nothing.
func FuzzRequest(f *testing.F) {
	for _, name := range []string{
		"vmlinuz", "/vmlinuz", "/boot.ipxe", "//boot.ipxe", "/../boot.ipxe", "/%2e%2e/etc/passwd", "grub/grub.cfg", "", "/", "vmlinuz\x00",
	} {
		f.Add("GET", name, "")
		f.Add("HEAD", name, "bytes=1-3")
		f.Add("PUT", name, "bytes=-1,2-")
	}
	const script = "#!ipxe\nboot\n"
	s := &Server{files: files{IPXEName: {text: script}, KernelName: {path: "/nonexistent"}}, log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, method, name, ranges string) {
		if b, _, err := s.files.open(name); err == nil {
			got, err := io.ReadAll(b)
			if err != nil || string(got) != script || strings.TrimPrefix(name, "/") != IPXEName {
				t.Errorf("%q is %q, %v", name, got, err)
			}
		}
		r := &http.Request{Method: method, URL: &url.URL{Path: name}, Header: http.Header{"Range": {ranges}}}
		w := httptest.NewRecorder()
		s.download(w, r)
		switch {
		case w.Code == http.StatusOK && method == http.MethodGet:
			if w.Body.String() != script || strings.TrimPrefix(name, "/") != IPXEName {
				t.Errorf("%q is %q", name, w.Body)
			}
		case w.Code == http.StatusPartialContent && strings.TrimPrefix(name, "/") != IPXEName:
			t.Errorf("a part of %q is sent", name)
		}
	})
}

// A kernel's command line that is taken is a line of iPXE's script and of GRUB's configuration, and nothing else.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{"quiet", "dnbd=:debian:cow=mem console=ttyS0", "a || b", "a\nshell", "${net0/mac}", "#x", "a;b", "'x'", "  "} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if CheckCommandLine(line) != nil {
			return
		}
		for _, initrd := range []bool{false, true} {
			if got, want := strings.Count(IPXEScript(line, initrd), "\n"), strings.Count(IPXEScript("", initrd), "\n"); got != want {
				t.Errorf("%q makes %d lines of iPXE's %d", line, got, want)
			}
			if got, want := strings.Count(GRUBConfig(line, initrd), "\n"), strings.Count(GRUBConfig("", initrd), "\n"); got != want {
				t.Errorf("%q makes %d lines of GRUB's %d", line, got, want)
			}
		}
	})
}
