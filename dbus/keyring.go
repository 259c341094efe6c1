package dbus

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

// lock is Keyring1.Lock.
func (c *call) lock() error {
	c.bus.server.gate.Lock()
	return nil
}

// unlock is Keyring1.Unlock: each key signs something that nobody gets, so that
// its PIN or passphrase is proven and remembered.
func (c *call) unlock(paths []godbus.ObjectPath) (uint32, error) {
	if c.bus.server.gate.Remembering() <= 0 {
		return 0, fmt.Errorf("%w: nothing is remembered, so that unlocking ahead would be in vain", keyring.ErrUnsupported)
	}
	entries, err := c.bus.server.entries(paths)
	if err != nil {
		return 0, err
	}
	var done uint32
	for _, e := range entries {
		if e.info.NeedsAuth {
			if err := c.prove(e); err != nil {
				return done, err
			}
		}
		done++
	}
	return done, nil
}

// entries returns the keys of these paths, or all that need an authorization
// value if there are none.
func (s *Server) entries(paths []godbus.ObjectPath) ([]*entry, error) {
	keys, err := s.catalog()
	if err != nil {
		return nil, err
	}
	var found []*entry
	if len(paths) == 0 {
		for _, e := range keys.order {
			if e.info.NeedsAuth {
				found = append(found, e)
			}
		}
	}
	for _, p := range paths {
		e := keys.byPath[p]
		if e == nil {
			return nil, fmt.Errorf("key %s: %w", strings.TrimPrefix(string(p), string(keysPath)+"/"), keyring.ErrNotFound)
		}
		found = append(found, e)
	}
	return found, nil
}

func (c *call) prove(e *entry) error {
	s, err := usualScheme(e.info.Public)
	if err != nil {
		return err
	}
	// Random, so that the signature could not serve anybody as anything.
	nonsense := make([]byte, 32)
	_, _ = rand.Read(nonsense) // never fails
	r, err := s.request(append([]byte("keyringd unlock\x00"), nonsense...), wish{})
	if err != nil {
		return err
	}
	r.Caller, r.Key, r.Reason = c.caller, e.info.ID, "unlock it for later"
	_, err = c.bus.server.keys.Sign(c.ctx, r)
	return err
}

// status is Keyring1.Status.
func (c *call) status() (properties, error) {
	s := c.bus.server
	tpm := 0
	all := s.keys.List()
	for _, k := range all {
		if k.Kind == keyring.KindTPM {
			tpm++
		}
	}
	status := properties{}
	if s.Status != nil {
		for name, v := range s.Status(c.ctx) {
			status[name] = godbus.MakeVariant(v)
		}
	}
	status["Version"] = godbus.MakeVariant(s.Version)
	status["PID"] = godbus.MakeVariant(uint32(os.Getpid()))
	status["Keys"] = godbus.MakeVariant(uint32(len(all)))
	status["TPMKeys"] = godbus.MakeVariant(uint32(tpm))
	status["Approvals"] = godbus.MakeVariant(uint32(len(s.gate.Approvals())))
	status["Remember"] = godbus.MakeVariant(uint64(max(0, s.gate.Remembering()).Seconds()))
	return status, nil
}

// An approval as Keyring1.Approvals lists it.
type approval struct {
	ID                         uint64
	Key, Label, Program, Scope string
	Given, Until               int64
}

// approvals is Keyring1.Approvals.
func (c *call) approvals() ([]approval, error) {
	list := []approval{}
	for _, a := range c.bus.server.gate.Approvals() {
		until := int64(0) // until locked
		if !a.Until.IsZero() {
			until = a.Until.Unix()
		}
		list = append(list, approval{
			ID: a.ID, Key: a.Key, Label: a.Subject, Program: a.Program, Scope: a.Scope,
			Given: a.Given.Unix(), Until: until,
		})
	}
	return list, nil
}

// A past use as Keyring1.History lists it.
type past struct {
	At                                            int64
	FrontEnd, Caller, Label, Key, Reason, Outcome string
}

// history is Keyring1.History.
func (c *call) history() ([]past, error) {
	list := []past{}
	for _, p := range c.bus.server.gate.History() {
		outcome := ""
		if p.Err != nil {
			outcome = caller.Sanitize(p.Err.Error(), maxOutcome)
		}
		list = append(list, past{
			At: p.At.Unix(), FrontEnd: p.Caller.FrontEnd, Caller: p.Caller.Process, Label: p.Subject, Key: p.ID,
			Reason: p.Reason, Outcome: outcome,
		})
	}
	return list, nil
}

// maxOutcome is how many characters of an error the history tells.
const maxOutcome = 300

// revoke is Keyring1.Revoke.
func (c *call) revoke(id uint64) error { return c.bus.server.gate.Revoke(id) }
