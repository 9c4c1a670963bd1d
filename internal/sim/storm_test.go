package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	nclients = flag.Int("clients", 1000, "")
	join     = flag.Duration("join", 60*time.Second, "")
)

func TestStorm(t *testing.T) {
	_, image := BootTrace(64 << 10)
	alone, err := Storm{Seed: 1, Clients: 1, Servers: 4, Loss: 0.01, Port: 250e6}.Run()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%+v\n", *alone)
	begin := time.Now()
	r, err := Storm{Seed: 1, Clients: *nclients, Servers: 4, Loss: 0.01, Port: 250e6, Join: *join, Crash: true}.Run()
	if err != nil {
		t.Fatal(err)
	}
	r.Least = r.LeastToSend(alone, image)
	fmt.Printf("real %v\n%+v\n", time.Since(begin), *r)
	fmt.Println(r.Sent/float64(r.Unique), r.Sent/r.Least, r.Control/r.Sent)
}
