package control

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
)

// Whatever is sent to the control socket, the attachment is asked for nothing that makes no sense.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"file":"/var/cache/x","size":1048576}`))
	f.Add([]byte(`{"timeout":1000000000,"io_timeout":5}`))
	f.Add([]byte(`{"timeout":-1}`))
	f.Add([]byte(`{"size":1e400}`))
	f.Add([]byte(`[]`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &Service{handler: Handler{
			AddCache: func(_ context.Context, r AddCache) error {
				if !filepath.IsAbs(r.File) || r.Size < 0 {
					t.Errorf("a cache %+v is added", r)
				}
				return nil
			},
			Set: func(_ context.Context, r Set) error {
				if r.Timeout < 0 || r.IOTimeout < 0 || r == (Set{}) {
					t.Errorf("%+v is set", r)
				}
				return nil
			},
		}}
		for _, handle := range []http.HandlerFunc{s.addCache, s.set} {
			w := httptest.NewRecorder()
			handle(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body)))
			if w.Code != http.StatusNoContent && w.Code != http.StatusBadRequest {
				t.Errorf("%q is answered with %d", body, w.Code)
			}
		}
	})
}
