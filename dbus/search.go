package dbus

import (
	"context"
	"errors"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// usualSearchWait is how long a search waits for the user to unlock what cannot
// be searched before. Most programs give up on any call after 25 seconds.
const usualSearchWait = 20 * time.Second

// searchItems is Service.SearchItems. What is locked is found all the same and
// said to be locked: a program that is told of nothing would make itself a new
// key, and never read again what it encrypted with the old one.
func (c *call) searchItems(attributes map[string]string) (unlocked, locked []godbus.ObjectPath, err error) {
	s := c.bus.server
	quietly := c.quietly()
	open, closed, err := s.Secrets.Search(attributes)
	if blind(err) {
		for _, info := range s.Secrets.Collections() {
			quietly(info.ID)
		}
		open, closed, err = s.Secrets.Search(attributes)
	}
	if blind(err) {
		// There is no way to tell a program to unlock a collection and search again,
		// so that the user is asked here. It is once: unlocking makes another index
		// key where that was lost, and puts damage right.
		ctx, cancel := context.WithTimeout(c.ctx, s.searchWait)
		defer cancel()
		for _, info := range s.Secrets.Collections() {
			if _, failed := s.Secrets.SearchIn(info.ID, attributes); blind(failed) {
				c.unlockToSearch(ctx, info.ID)
			}
		}
		open, closed, err = s.Secrets.Search(attributes)
	}
	if blind(err) {
		// What the others have is an answer, as long as it is not nothing.
		if open, closed = s.searchOthers(attributes); len(open)+len(closed) > 0 {
			err = nil
		}
	}
	if err != nil {
		return nil, nil, err
	}
	var still []keyring.ItemRef
	for _, r := range closed {
		if quietly(r.Collection) {
			open = append(open, r)
		} else {
			still = append(still, r)
		}
	}
	return itemPaths(open), itemPaths(still), nil
}

// searchOthers searches where it can be searched.
func (s *Server) searchOthers(attributes map[string]string) (open, closed []keyring.ItemRef) {
	for _, info := range s.Secrets.Collections() {
		switch refs, err := s.Secrets.SearchIn(info.ID, attributes); {
		case err != nil:
		case info.Locked:
			closed = append(closed, refs...)
		default:
			open = append(open, refs...)
		}
	}
	return open, closed
}

// searchCollection is Collection.SearchItems.
func (c *call) searchCollection(attributes map[string]string) (found []godbus.ObjectPath, err error) {
	s, collection := c.bus.server, c.node.item.Collection
	search := func() error {
		refs, err := s.Secrets.SearchIn(collection, attributes)
		found = itemPaths(refs)
		return err
	}
	err = s.unlocking(c.ctx, collection, search)
	if blind(err) {
		ctx, cancel := context.WithTimeout(c.ctx, s.searchWait)
		defer cancel()
		if c.unlockToSearch(ctx, collection) {
			err = search()
		}
	}
	return found, err
}

// blind is the error of a collection that cannot be searched while it is locked,
// or is damaged in a way that unlocking puts right.
func blind(err error) bool {
	return errors.Is(err, keyring.ErrLocked) || errors.Is(err, keyring.ErrUnavailable)
}

// unlockToSearch has the user unlock a collection, and reports whether it is
// unlocked now. The question stays when ctx ends, so that the next search finds.
// Who has said no is not asked again by a search, as programs search often.
func (c *call) unlockToSearch(ctx context.Context, collection string) bool {
	s := c.bus.server
	if !s.locked(collection) || s.shown.isRefused(collection) {
		return false
	}
	done := make(chan error, 1)
	c.bus.calls.Go(func() {
		err := s.Secrets.Unlock(c.ctx, c.caller, collection)
		if errors.Is(err, keyring.ErrDenied) || errors.Is(err, keyring.ErrAuthFailed) {
			s.shown.refuse(collection)
		}
		done <- err
	})
	select {
	case err := <-done:
		return err == nil
	case <-ctx.Done():
		return false
	}
}
