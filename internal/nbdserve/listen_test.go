package nbdserve

import (
	"slices"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/nbdconf"
)

func TestSocketsAreWhereTheConfigurationSays(t *testing.T) {
	for _, c := range []struct {
		config nbdconf.Config
		want   []string
	}{
		{nbdconf.Config{Port: 10809}, []string{":10809"}},
		{nbdconf.Config{Port: 1, Listen: nbdconf.Addresses{"127.0.0.1", "::1", "nas"}}, []string{"127.0.0.1:1", "[::1]:1", "nas:1"}},
		{nbdconf.Config{Port: 1, UnixSocket: "/s"}, []string{"unix:/s"}},
		{nbdconf.Config{Port: 1, UnixSocket: "/s", DualListen: true}, []string{"unix:/s", ":1"}},
	} {
		if got := addresses(&c.config); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.config, got, c.want)
		}
	}
}

func TestListenOpensAllOrNone(t *testing.T) {
	path := t.TempDir() + "/s"
	first, err := Listen(t.Context(), &nbdconf.Config{UnixSocket: path, DualListen: true, Listen: nbdconf.Addresses{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer listen.Close(first)
	if len(first) != 2 {
		t.Errorf("%d sockets, want 2", len(first))
	}
	if _, err := Listen(t.Context(), &nbdconf.Config{UnixSocket: path}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a second time: %v", err)
	}
}
