//go:build race

package main

// idlers are less where the race detector is: a server needs twenty times as much memory for each.
const idlers = 1000
