package dbus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const (
	portalPath   = godbus.ObjectPath("/org/freedesktop/portal/desktop")
	requestsPath = portalPath + "/request"

	portalVersion = 1
	portalSchema  = "org.freedesktop.portal.Secret"
	appAttribute  = "app_id"
	appKeySize    = 64
	// maxAppID is the longest name of an application: Desktop Entry
	// Specification, "File naming", after D-Bus names.
	maxAppID = 255

	// The answers of a portal: XDG Desktop Portal, "org.freedesktop.portal.Request".
	portalDone      = 0
	portalCancelled = 1
	portalOther     = 2
)

func (s *Server) lookupPortal(n node) node {
	n.interfaces = slices.Concat([]string{portalInterface, propertiesInterface}, everywhere)
	n.properties = map[string]properties{portalInterface: {"version": godbus.MakeVariant(uint32(portalVersion))}}
	return n
}

// retrieveSecret is RetrieveSecret of the portal's back end.
func (c *call) retrieveSecret(handle godbus.ObjectPath, app string, fd godbus.UnixFDIndex, _ properties) (uint32, properties, error) {
	results := properties{}
	if c.sender.app != "" {
		// Only the portal says which application it is.
		return 0, nil, fmt.Errorf("%w, and not for %s", errPortal, c.sender.app)
	}
	if app == "" || len(app) > maxAppID {
		return 0, nil, badArgument("application %.64q", app)
	}
	file, err := c.file(fd)
	if err != nil {
		return 0, nil, err
	}
	ctx, done, err := c.request(handle)
	if err != nil {
		return 0, nil, err
	}
	defer done()
	who := c.caller
	who.Process = caller.Sanitize(app, maxAppID) + " ← " + who.String()
	key, err := c.bus.server.appKey(ctx, who, app)
	if err == nil {
		defer key.Wipe()
		err = handOver(file, key)
	}
	switch {
	case err == nil:
		return portalDone, results, nil
	case errors.Is(err, keyring.ErrDenied), ctx.Err() != nil:
		return portalCancelled, results, nil
	}
	_, level := outcome(err)
	c.bus.server.log.LogAttrs(ctx, level, "no key for an application", slog.String("caller", who.String()), slog.Any("err", err))
	return portalOther, results, nil
}

// request makes the object by which the portal takes its call back.
func (c *call) request(handle godbus.ObjectPath) (ctx context.Context, done func(), err error) {
	if !strings.HasPrefix(string(handle), string(requestsPath)+"/") {
		return nil, nil, badArgument("handle %.200s is not below %s", handle, requestsPath)
	}
	b, s := c.bus, c.sender
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.requests[handle] != nil {
		return nil, nil, badArgument("handle %.200s is in use", handle)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s.requests[handle] = cancel
	return ctx, func() {
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(s.requests, handle)
	}, nil
}

// closeRequest is Request.Close.
func (c *call) closeRequest() error {
	c.node.cancel()
	return nil
}

// appKey returns an application's key, the caller's to Wipe, and makes it the
// first time. It lies in the default collection as gnome-keyring keeps it, so
// that keys which were moved here are found; or in what was the default then.
func (s *Server) appKey(ctx context.Context, c keyring.Caller, app string) (secret.Bytes, error) {
	collection, ok := s.Secrets.Alias(keyring.DefaultAlias)
	if !ok {
		return secret.Bytes{}, fmt.Errorf("there is no default keyring: %w", keyring.ErrUnavailable)
	}
	if !s.Secrets.UnlockQuietly(ctx, collection) {
		if err := s.Secrets.Unlock(ctx, c, collection); err != nil {
			return secret.Bytes{}, err
		}
	}
	attributes := map[string]string{appAttribute: app, schemaAttribute: portalSchema}
	found, err := s.Secrets.SearchIn(collection, attributes)
	if err != nil {
		return secret.Bytes{}, err
	}
	if len(found) == 0 {
		if found, err = s.elsewhere(ctx, c, attributes); err != nil {
			return secret.Bytes{}, err
		}
	}
	if len(found) == 0 {
		if err := s.makeAppKey(ctx, c, collection, app, attributes); err != nil {
			return secret.Bytes{}, err
		}
		// Should two calls have made one each, both use the older one.
		if found, err = s.Secrets.SearchIn(collection, attributes); err != nil {
			return secret.Bytes{}, err
		}
		if len(found) == 0 {
			return secret.Bytes{}, fmt.Errorf("the key of %s: %w", app, keyring.ErrNotFound)
		}
	}
	key, _, err := s.Secrets.Secret(ctx, c, found[0])
	return key, err
}

// elsewhere looks for an application's key in all collections. With another key
// the application could not read what it has encrypted.
func (s *Server) elsewhere(ctx context.Context, c keyring.Caller, attributes map[string]string) ([]keyring.ItemRef, error) {
	open, closed, err := s.Secrets.Search(attributes)
	if err != nil || len(open) > 0 || len(closed) == 0 {
		return open, err
	}
	return closed, s.Secrets.Unlock(ctx, c, closed[0].Collection)
}

func (s *Server) makeAppKey(ctx context.Context, c keyring.Caller, collection, app string, attributes map[string]string) error {
	key := secret.New(appKeySize)
	defer key.Wipe()
	key.Use(func(b []byte) { _, _ = rand.Read(b) }) // never fails
	_, err := s.Secrets.CreateItem(ctx, c, collection, keyring.NewItem{
		Label: "Application key for " + app, Attributes: attributes, ContentType: "application/octet-stream", Secret: key,
	}, false)
	return err
}
