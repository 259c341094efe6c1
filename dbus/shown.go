package dbus

import (
	"sync"

	"github.com/keyringd/keyringd/keyring"
)

// maxShown is how many items are remembered as shown, far more than people
// have.
const maxShown = 1 << 16

// shown is the items whose properties somebody has seen, and may have kept:
// what is told of when a collection is locked or unlocked. Telling of all items
// of a large collection would be as much as reading it whole.
type shown struct {
	mu    sync.Mutex
	items map[string]map[string]struct{} // by collection
	count int
	// unlisted are the collections that somebody has seen without the list of
	// their items, as it could not be had.
	unlisted map[string]bool
	refused  map[string]bool // collections that the user would not unlock for a search
}

// refuse notes that the user would not unlock a collection for a search.
func (s *shown) refuse(collection string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = map[string]bool{}
	}
	s.refused[collection] = true
}

func (s *shown) isRefused(collection string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[collection]
}

// unlist notes that a collection's list cannot be had.
func (s *shown) unlist(collection string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unlisted == nil {
		s.unlisted = map[string]bool{}
	}
	s.unlisted[collection] = true
}

// listable is called when that may have changed, and reports whether somebody
// is to be told of the list.
func (s *shown) listable(collection string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := s.unlisted[collection]
	delete(s.unlisted, collection)
	return wanted
}

func (s *shown) add(r keyring.ItemRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items == nil {
		s.items = map[string]map[string]struct{}{}
	}
	in := s.items[r.Collection]
	if in == nil {
		in = map[string]struct{}{}
		s.items[r.Collection] = in
	}
	if _, already := in[r.Item]; already || s.count >= maxShown {
		return
	}
	in[r.Item] = struct{}{}
	s.count++
}

func (s *shown) remove(r keyring.ItemRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.items[r.Collection][r.Item]; there {
		delete(s.items[r.Collection], r.Item)
		s.count--
	}
}

// forget forgets a collection.
func (s *shown) forget(collection string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count -= len(s.items[collection])
	delete(s.items, collection)
	delete(s.unlisted, collection)
	delete(s.refused, collection)
}

// of returns a collection's items.
func (s *shown) of(collection string) []keyring.ItemRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refs []keyring.ItemRef
	for item := range s.items[collection] {
		refs = append(refs, keyring.ItemRef{Collection: collection, Item: item})
	}
	return refs
}
