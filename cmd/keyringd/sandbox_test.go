package main

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/keyringd/keyringd/internal/caller"
)

// stuck returns a sandbox whose key folder is in a file system that does not
// answer until the test ends, and a channel that says that somebody looks there.
func stuck(t *testing.T) (*sandbox, <-chan struct{}) {
	t.Helper()
	d := &daemon{log: slog.New(slog.DiscardHandler)}
	d.KeyDirs = []string{"/x/keys"}
	looks, end := make(chan struct{}, 10), make(chan struct{})
	t.Cleanup(func() { close(end) })
	return &sandbox{
		daemon: d, on: true, callers: &caller.Witness{}, began: make(chan struct{}),
		stat: func(string) (os.FileInfo, error) {
			looks <- struct{}{}
			<-end
			return nil, os.ErrInvalid
		},
	}, looks
}

// Telling how it stands keeps no question from being asked.
func TestStatusOfAStuckKeyFolder(t *testing.T) {
	s, looks := stuck(t)
	s.places = []place{{path: "/x/keys"}}
	go s.fact()
	<-looks
	if !s.mu.TryLock() {
		t.Fatal("whoever starts a program waits for the folder")
	}
	s.mu.Unlock()
}

// Nor does such a folder keep the daemon from its end.
func TestEndWithAStuckKeyFolder(t *testing.T) {
	s, looks := stuck(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-looks
		cancel()
	}()
	s.enter(ctx, nil)
}
