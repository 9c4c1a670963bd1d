//go:build !race

package main

// idlers is how many clients connect and say nothing, or half a word.
const idlers = 10_000
