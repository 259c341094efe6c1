package dbus

import (
	"context"
	"errors"
	"fmt"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

const (
	// maxPaths bounds the objects named in one call: some fifty thousand. Search
	// results are handed back as a whole.
	maxPaths = 4 << 20
	// maxReply bounds the secrets in one reply, with all that belongs to them, far
	// below the 128 MiB at which the bus would hang up on us: D-Bus Specification,
	// "Message Format".
	maxReply = 64 << 20
	// maxAlias is how many characters an alias has.
	maxAlias = 128
)

func (s *Server) serviceProperties() properties {
	paths := []godbus.ObjectPath{}
	for _, c := range s.Secrets.Collections() {
		paths = append(paths, collectionPath(c.ID))
	}
	return properties{"Collections": godbus.MakeVariant(paths)}
}

// createCollection is Service.CreateCollection. One that has the alias already
// is returned as it is: programs ask so for the default one.
func (c *call) createCollection(all properties, alias string) (made, prompt godbus.ObjectPath, err error) {
	s := c.bus.server
	label, err := property[string](all, collectionInterface+".Label")
	if err != nil {
		return "", "", err
	}
	if err := checkAlias(alias); alias != "" && err != nil {
		return "", "", err
	}
	if alias != "" {
		info, err := s.collection(aliasesPath + "/" + godbus.ObjectPath(alias))
		if err == nil {
			return collectionPath(info.ID), nothing, nil
		}
		if !errors.Is(err, keyring.ErrNotFound) {
			return "", "", err
		}
	}
	at, err := c.prompt(nothing, func(ctx context.Context) (any, error) {
		id, err := s.Secrets.CreateCollection(ctx, c.caller, label, alias)
		return collectionPath(id), err
	})
	return nothing, at, err
}

// quietly returns a function that unlocks collections where nobody need be
// asked, and tries each once.
func (c *call) quietly() func(collection string) bool {
	tried := map[string]bool{}
	return func(collection string) bool {
		done, already := tried[collection]
		if !already {
			done = c.bus.server.Secrets.UnlockQuietly(c.ctx, collection)
			tried[collection] = done
		}
		return done
	}
}

// A locked is an object that is to be unlocked, by the path it was asked for by
// and by its collection.
type locked struct {
	path       godbus.ObjectPath
	collection string
}

// unlockObjects is Service.Unlock. It answers with the very paths that were
// asked for, aliases included: some programs compare them. Objects that are not
// there are passed over.
func (c *call) unlockObjects(paths []godbus.ObjectPath) (unlocked []godbus.ObjectPath, prompt godbus.ObjectPath, err error) {
	s := c.bus.server
	unlocked = []godbus.ObjectPath{}
	var rest []locked
	quietly := c.quietly()
	for _, at := range paths {
		collection, err := s.behind(at)
		if errors.Is(err, keyring.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if quietly(collection) {
			unlocked = append(unlocked, at)
		} else {
			rest = append(rest, locked{at, collection})
		}
	}
	c.bus.settled(c.ctx)
	if len(rest) == 0 {
		return unlocked, nothing, nil
	}
	prompt, err = c.prompt([]godbus.ObjectPath{}, func(ctx context.Context) (any, error) {
		return s.unlockAll(ctx, c.caller, rest)
	})
	return unlocked, prompt, err
}

// behind returns the collection that an object is or lies in; ErrNotFound: there
// is no such object.
func (s *Server) behind(at godbus.ObjectPath) (collection string, err error) {
	r, ok := s.resolve(at)
	if !ok {
		return "", keyring.ErrNotFound
	}
	if _, err := s.Secrets.Collection(r.Collection); err != nil {
		return "", err
	}
	if r.Item != "" {
		// One that is locked or damaged is there.
		if _, err := s.Secrets.Item(r); errors.Is(err, keyring.ErrNotFound) {
			return "", err
		}
	}
	return r.Collection, nil
}

// unlockAll unlocks one collection after the other until the user says no. An
// error means that none was unlocked.
func (s *Server) unlockAll(ctx context.Context, c keyring.Caller, all []locked) ([]godbus.ObjectPath, error) {
	unlocked := []godbus.ObjectPath{}
	tried := map[string]error{}
	var failed error
	for _, l := range all {
		err, done := tried[l.collection]
		if !done {
			err = s.Secrets.Unlock(ctx, c, l.collection)
			tried[l.collection] = err
		}
		if err == nil {
			unlocked = append(unlocked, l.path)
			continue
		}
		failed = err
		if errors.Is(err, keyring.ErrDenied) || ctx.Err() != nil {
			break
		}
	}
	if len(unlocked) == 0 {
		return nil, failed
	}
	return unlocked, nil
}

// lockObjects is Service.Lock.
func (c *call) lockObjects(paths []godbus.ObjectPath) (locked []godbus.ObjectPath, prompt godbus.ObjectPath, err error) {
	s := c.bus.server
	locked = []godbus.ObjectPath{}
	done := map[string]bool{}
	for _, at := range paths {
		collection, err := s.behind(at)
		if err != nil {
			continue // nothing that could be unlocked
		}
		if !done[collection] {
			// The session collection cannot be locked, and is not said to be.
			if err := s.Secrets.Lock(c.ctx, c.caller, collection); errors.Is(err, keyring.ErrUnsupported) {
				continue
			} else if err != nil {
				return nil, "", err
			}
			done[collection] = true
		}
		locked = append(locked, at)
	}
	c.bus.settled(c.ctx)
	return locked, nothing, nil
}

// lockService is Service.LockService.
func (c *call) lockService() error { return c.bus.server.Secrets.Lock(c.ctx, c.caller) }

// changeLock is Service.ChangeLock and its twin, ChangeWithPrompt.
func (c *call) changeLock(at godbus.ObjectPath) (prompt godbus.ObjectPath, err error) {
	info, err := c.bus.server.collection(at)
	if err != nil {
		return "", err
	}
	return c.prompt("", func(ctx context.Context) (any, error) {
		return "", c.bus.server.Secrets.ChangePassphrase(ctx, c.caller, info.ID)
	})
}

// getSecrets is Service.GetSecrets. What is locked or gone is left out, and so is
// what is damaged, unless there is nothing else: programs ask for all that they
// have found, and the others are not to be out of reach with it.
func (c *call) getSecrets(items []godbus.ObjectPath, session godbus.ObjectPath) (map[godbus.ObjectPath]passed, error) {
	channel, err := c.channel(session)
	if err != nil {
		return nil, err
	}
	secrets, size := map[godbus.ObjectPath]passed{}, 0
	c.confidential = func() {
		for _, s := range secrets {
			clear(s.Value)
		}
	}
	var broken error
	for _, at := range items {
		r, ok := c.bus.server.resolve(at)
		if _, twice := secrets[at]; twice || !ok || r.Item == "" {
			continue
		}
		s, err := c.secret(r, session, channel)
		if errors.Is(err, keyring.ErrLocked) || errors.Is(err, keyring.ErrNotFound) {
			continue
		}
		if errors.Is(err, keyring.ErrDamaged) {
			broken = err
			continue
		}
		if err != nil {
			return nil, err
		}
		secrets[at] = s
		if size += len(s.Value) + len(s.ContentType) + 2*len(at) + 64; size > maxReply {
			return nil, fmt.Errorf("%w: more than %d MiB of secrets; ask for fewer at once", errLimit, maxReply>>20)
		}
	}
	if len(secrets) == 0 {
		return secrets, broken
	}
	return secrets, nil
}

// readAlias is Service.ReadAlias.
func (c *call) readAlias(name string) (godbus.ObjectPath, error) {
	s := c.bus.server
	id, ok := s.Secrets.Alias(name)
	if !ok {
		return nothing, nil
	}
	if _, err := s.Secrets.Collection(id); errors.Is(err, keyring.ErrNotFound) {
		return nothing, nil
	} else if err != nil {
		return "", err
	}
	return collectionPath(id), nil
}

// setAlias is Service.SetAlias; no object takes the alias away.
func (c *call) setAlias(name string, at godbus.ObjectPath) error {
	if err := checkAlias(name); err != nil {
		return err
	}
	if at == nothing {
		return c.bus.server.Secrets.SetAlias(name, "")
	}
	info, err := c.bus.server.collection(at)
	if err != nil {
		return err
	}
	return c.bus.server.Secrets.SetAlias(name, info.ID)
}

// checkAlias refuses what cannot be a part of an object's path, so that each
// alias has an object.
func checkAlias(name string) error {
	if name == "" || len(name) > maxAlias || !(aliasesPath + "/" + godbus.ObjectPath(name)).IsValid() {
		return badArgument("alias %.64q: letters, digits and _, at most %d", name, maxAlias)
	}
	for _, r := range name {
		if r == '/' {
			return badArgument("alias %.64q: letters, digits and _", name)
		}
	}
	return nil
}

// property reads one of the properties that a new object shall have; not given,
// it is the zero value.
func property[T any](all properties, name string) (value T, err error) {
	v, given := all[name]
	if !given {
		return value, nil
	}
	value, ok := v.Value().(T)
	if !ok {
		return value, badArgument("property %s is of type %s", name, v.Signature())
	}
	return value, nil
}
