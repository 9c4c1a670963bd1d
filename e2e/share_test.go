//go:build linux

package e2e

import (
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/dnbd/dnbd/e2e/lab"
)

func TestEightClientsMountAnImageAndTheServerSendsItOnce(t *testing.T) {
	const clients = 8
	r := newRig(t, lab.Options{Clients: clients, ServerRate: 200e6})
	image, source := tree(t)
	paths := files(t, source)
	r.serve("s1", image)
	var dirs []string
	for _, host := range r.lab.Clients() {
		dir, _ := r.attach(host, "tree").mount("erofs")
		dirs = append(dirs, dir)
	}
	// What was sent for the first mounts the later ones, which were not there, needed again.
	sent := r.sent("s1")
	var g errgroup.Group
	for i, dir := range dirs {
		g.Go(func() error { return compareFiles(dir, source, paths, i, clients) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	wantOnce(t, sent(), size(t, image), 1.15)
}

// wantOnce checks that a server has sent about one image, and not more than limit times it: 5.3 % are headers, and a little is
// answers and announcements. Where clients begin together, that is to within milliseconds.
func wantOnce(t *testing.T, sent, image int64, limit float64) {
	t.Helper()
	ratio := float64(sent) / float64(image)
	t.Logf("the server's port carried %.3f times the image of %d MiB", ratio, image/mib)
	if ratio > limit {
		t.Errorf("it is to carry the image once, at most %.2f times", limit)
	}
}

func TestAFilmThatASecondClientWatchesLaterIsSentOnce(t *testing.T) {
	r := newRig(t, lab.Options{Clients: 2, ServerRate: 400e6})
	image := film(t, 64*mib)
	r.serve("s1", image)
	sent := r.sent("s1")
	first := r.attach("c1", "film65536", "--cache-size", "96MiB")
	second := r.attach("c2", "film65536", "--cache-size", "96MiB")
	for _, a := range []*attachment{first, second} {
		if err := compare(a.device, image); err != nil {
			t.Error(err)
		}
	}
	wantOnce(t, sent(), size(t, image), 1.1)
}

func TestTwentyClientsCopyAnImageAndTheServerSendsItOnce(t *testing.T) {
	const clients = 20
	r := newRig(t, lab.Options{Clients: clients, ServerRate: 200e6})
	image := film(t, 32*mib)
	sent := r.sent("s1")
	copies := r.copyTogether("film32768", func() { r.serve("s1", image) })
	for i := range copies {
		if err := compare(copies[i], image); err != nil {
			t.Error(err)
		}
	}
	wantOnce(t, sent(), size(t, image), 1.15)
}

// copyTogether copies an image on all clients. To start at once they wait until serve, which is called when they do. It returns
// the copies' paths.
func (r *rig) copyTogether(image string, serve func()) (paths []string) {
	r.t.Helper()
	var copies []*process
	for _, host := range r.lab.Clients() {
		paths = append(paths, r.path(host))
		copies = append(copies, r.dnbd(host, "copy", image, r.path(host)))
	}
	for _, c := range copies {
		c.await(c.err, "waiting for image")
	}
	serve()
	for _, c := range copies {
		c.succeed()
	}
	return paths
}
