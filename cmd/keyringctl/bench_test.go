package main

import (
	"os"
	"testing"

	"github.com/keyringd/keyringd/dbus/client"
)

// BenchmarkKeys is one list of a thousand keys without the process around it.
func BenchmarkKeys(b *testing.B) {
	h := serve(b, thousand(b)...)
	c, err := client.Dial(b.Context(), h.bus.Address)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		keys, err := c.Keys(b.Context())
		if err != nil || len(keys) != 1000 {
			b.Fatal(len(keys), err)
		}
		_ = keyTable(keys).string(false)
	}
}

// BenchmarkList is the whole process.
func BenchmarkList(b *testing.B) {
	h := serve(b, thousand(b)...)
	for b.Loop() {
		h.must("key", "list")
	}
}

// BenchmarkStart is what every process pays.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		if _, _, status := runWith(b, os.Environ(), "--version"); status != 0 {
			b.Fatal(status)
		}
	}
}
