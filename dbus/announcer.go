package dbus

import (
	"context"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

const (
	// longList is how many items a collection has whose list is not told of at
	// each change, and listPause how long changes gather then: the list of ten
	// thousand is most of a MiB. It is told with its value even so. libsecret
	// never asks again for what is only called invalid, and has no items after.
	longList  = 100
	listPause = time.Second
)

// An announcer tells the bus of changes to the secrets.
type announcer struct {
	bus    *bus
	known  map[string]keyring.CollectionInfo // as the bus was told
	length map[string]int                    // of the lists, as the bus was told
	stale  map[string]bool                   // collections with changed items; true: the list, too
}

// announceSecrets tells the bus of every change to the secrets from now on.
func (b *bus) announceSecrets() {
	a := &announcer{bus: b, known: map[string]keyring.CollectionInfo{}, length: map[string]int{}, stale: map[string]bool{}}
	secrets := b.server.Secrets
	watch := secrets.Watch(b.ctx)
	b.calls.Go(func() {
		select {
		case <-secrets.Opened():
		case <-b.ctx.Done():
			return
		}
		for _, info := range secrets.Collections() {
			a.known[info.ID] = info
		}
		close(b.watched)
		a.run(watch)
	})
}

// awaitSecrets returns when the secrets can be asked and the announcer knows
// what changes begin from: nobody sees them before, so that the name need not
// wait for the store to be opened.
func (b *bus) awaitSecrets(ctx context.Context) error {
	select {
	case <-b.watched:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *announcer) run(watch <-chan keyring.SecretsEvent) {
	var due <-chan time.Time // while a long list waits
	for {
		select {
		case e, ok := <-watch:
			if !ok {
				return
			}
			a.tell(e)
		case done := <-a.bus.settle:
			for n := len(watch); n > 0; n-- {
				if e, ok := <-watch; ok {
					a.tell(e)
				}
			}
			a.lists(false)
			close(done)
		case <-due:
			due = nil
			a.lists(true)
		}
		if len(watch) > 0 {
			continue // a list is told once for all that has gathered
		}
		if a.lists(false); len(a.stale) > 0 && due == nil {
			due = time.After(listPause)
		}
	}
}

// settled returns when the bus was told of all that has happened until now, but
// for long lists. Programs that wait for the end of an unlocking then know the
// labels by the time they hear of it, as signals keep their order.
func (b *bus) settled(ctx context.Context) {
	done := make(chan struct{})
	select {
	case b.settle <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// tell tells of one event.
func (a *announcer) tell(e keyring.SecretsEvent) {
	r := keyring.ItemRef{Collection: e.Collection, Item: e.Item}
	switch e.Kind {
	case keyring.CollectionCreated, keyring.CollectionDeleted, keyring.CollectionChanged:
		a.collections()
	case keyring.ItemCreated:
		a.signal(collectionPath(r.Collection), collectionInterface, "ItemCreated", itemPath(r))
		a.stale[r.Collection] = true
	case keyring.ItemDeleted:
		a.bus.server.shown.remove(r)
		a.signal(collectionPath(r.Collection), collectionInterface, "ItemDeleted", itemPath(r))
		a.stale[r.Collection] = true
	case keyring.ItemChanged:
		a.item(r)
		if _, known := a.stale[r.Collection]; !known {
			a.stale[r.Collection] = false // the list of items is as it was
		}
	default: // everything may have changed
		a.collections()
		for id := range a.known {
			a.stale[id] = true
			for _, r := range a.bus.server.shown.of(id) {
				a.item(r)
			}
		}
	}
}

// collections compares the collections with what the bus was told.
func (a *announcer) collections() {
	gone, list := a.known, false
	a.known = map[string]keyring.CollectionInfo{}
	for _, now := range a.bus.server.Secrets.Collections() {
		before, there := gone[now.ID]
		delete(gone, now.ID)
		a.known[now.ID] = now
		switch {
		case !there:
			a.signal(secretsPath, serviceInterface, "CollectionCreated", collectionPath(now.ID))
			list = true
		case before.Label != now.Label || before.Locked != now.Locked:
			a.changed(before, now)
		}
	}
	for id := range gone {
		a.signal(secretsPath, serviceInterface, "CollectionDeleted", collectionPath(id))
		a.bus.server.shown.forget(id)
		delete(a.stale, id)
		delete(a.length, id)
		list = true
	}
	if list {
		a.properties(secretsPath, serviceInterface, a.bus.server.serviceProperties())
	}
}

// changed tells of a collection that is another one than before. Items whose
// properties somebody has seen look different behind a lock.
func (a *announcer) changed(before, now keyring.CollectionInfo) {
	a.signal(secretsPath, serviceInterface, "CollectionChanged", collectionPath(now.ID))
	a.properties(collectionPath(now.ID), collectionInterface, collectionState(now))
	if before.Locked == now.Locked {
		return
	}
	for _, r := range a.bus.server.shown.of(now.ID) {
		a.item(r)
	}
	if !now.Locked && a.bus.server.shown.listable(now.ID) {
		a.stale[now.ID] = true
	}
}

// item tells of an item as it is now, if it is still there.
func (a *announcer) item(r keyring.ItemRef) {
	p, err := a.bus.server.itemProperties(r)
	if err != nil {
		return
	}
	a.signal(collectionPath(r.Collection), collectionInterface, "ItemChanged", itemPath(r))
	a.properties(itemPath(r), itemInterface, p)
}

// lists tells of the collections with changed items. Those with long lists wait
// for late.
func (a *announcer) lists(late bool) {
	for id, list := range a.stale {
		if list && !late && a.long(id) {
			continue
		}
		delete(a.stale, id)
		info, err := a.bus.server.Secrets.Collection(id)
		if err != nil {
			continue // gone, which is told of by itself
		}
		p := collectionState(info)
		if list {
			refs, err := a.bus.server.Secrets.Items(id)
			if err != nil {
				continue
			}
			a.length[id] = len(refs)
			p["Items"] = godbus.MakeVariant(itemPaths(refs))
		}
		a.properties(collectionPath(id), collectionInterface, p)
	}
}

// long reports whether a collection's list is one that waits. It is looked at
// for the first change, and not when the daemon starts.
func (a *announcer) long(id string) bool {
	if _, known := a.length[id]; !known {
		refs, err := a.bus.server.Secrets.Items(id)
		if err != nil {
			return false
		}
		a.length[id] = len(refs)
	}
	return a.length[id] > longList
}

func (a *announcer) signal(at godbus.ObjectPath, in, member string, values ...any) {
	a.bus.emit([]change{{at, in, member, values}})
}

func (a *announcer) properties(at godbus.ObjectPath, in string, p properties) {
	a.signal(at, propertiesInterface, "PropertiesChanged", in, p, []string{})
}
