package client

import (
	"context"
	"io"
	"os"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

const (
	keyringsPath  = rootPath + "/keyrings"
	keyringsIface = "io.github.keyringd.Keyrings1"
)

// A Keyring is what the daemon says of a keyring, which the Secret Service calls
// a collection.
type Keyring struct {
	ID       string    `json:"id"`
	Label    string    `json:"label"`
	Locked   bool      `json:"locked"`
	Items    int       `json:"items"` // -1: it has to be unlocked to be known
	Aliases  []string  `json:"aliases"`
	Path     string    `json:"path"` // of its object
	Created  time.Time `json:"created"`
	Modified time.Time `json:"modified"`
}

// A Slot is one of the ways to unlock a keyring.
type Slot struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // passphrase, tpm or recovery
	PIN     bool      `json:"pin"`
	PCRs    string    `json:"pcrs,omitempty"`
	Created time.Time `json:"created"`
}

func (c *Client) keyrings(ctx context.Context, member string, args []any, into ...any) error {
	return c.call(ctx, keyringsPath, keyringsIface, member, args, into...)
}

// Keyrings returns all keyrings.
func (c *Client) Keyrings(ctx context.Context) ([]Keyring, error) {
	var all []map[string]godbus.Variant
	if err := c.keyrings(ctx, "ListKeyrings", nil, &all); err != nil {
		return nil, err
	}
	list := make([]Keyring, len(all))
	for i, p := range all {
		k := &list[i]
		k.ID, _ = p["ID"].Value().(string)
		k.Label, _ = p["Label"].Value().(string)
		k.Locked, _ = p["Locked"].Value().(bool)
		k.Items = -1
		if items, ok := p["Items"].Value().(uint32); ok {
			k.Items = int(items)
		}
		k.Aliases, _ = p["Aliases"].Value().([]string)
		path, _ := p["Path"].Value().(godbus.ObjectPath)
		k.Path = string(path)
		k.Created, k.Modified = moment(p["Created"]), moment(p["Modified"])
	}
	return list, nil
}

// moment is a time on the bus, in seconds; 0: not known.
func moment(v godbus.Variant) time.Time {
	if s, _ := v.Value().(uint64); s != 0 {
		return time.Unix(int64(s), 0)
	}
	return time.Time{}
}

// CreateKeyring makes a keyring, whose passphrase the user is asked for, and
// returns its ID.
func (c *Client) CreateKeyring(ctx context.Context, label string) (id string, err error) {
	err = c.keyrings(ctx, "CreateKeyring", []any{label}, &id)
	return id, err
}

// LockKeyring locks a keyring, all of them for "".
func (c *Client) LockKeyring(ctx context.Context, keyring string) error {
	return c.keyrings(ctx, "Lock", []any{keyring})
}

// UnlockKeyring unlocks a keyring; the user may be asked.
func (c *Client) UnlockKeyring(ctx context.Context, keyring string) error {
	return c.keyrings(ctx, "Unlock", []any{keyring})
}

// ChangePassphrase has the user give the old passphrase and choose another.
func (c *Client) ChangePassphrase(ctx context.Context, keyring string) error {
	return c.keyrings(ctx, "ChangePassphrase", []any{keyring})
}

// Slots returns the ways to unlock a keyring.
func (c *Client) Slots(ctx context.Context, keyring string) ([]Slot, error) {
	var all []map[string]godbus.Variant
	if err := c.keyrings(ctx, "ListSlots", []any{keyring}, &all); err != nil {
		return nil, err
	}
	list := make([]Slot, len(all))
	for i, p := range all {
		s := &list[i]
		s.ID, _ = p["ID"].Value().(string)
		s.Kind, _ = p["Kind"].Value().(string)
		s.PIN, _ = p["PIN"].Value().(bool)
		s.PCRs, _ = p["PCRs"].Value().(string)
		s.Created = moment(p["Created"])
	}
	return list, nil
}

// AddSlot adds a slot of the kind passphrase or tpm, and returns its ID. pin and
// pcrs are for a TPM slot.
func (c *Client) AddSlot(ctx context.Context, keyring, kind string, pin bool, pcrs string) (id string, err error) {
	o := map[string]godbus.Variant{}
	set(o, "pin", pin)
	set(o, "pcrs", pcrs)
	err = c.keyrings(ctx, "AddSlot", []any{keyring, kind, o}, &id)
	return id, err
}

// maxCode is more than a recovery code has.
const maxCode = 4096

// AddRecoverySlot adds a slot that is opened by a code, and returns both. The
// code comes through a pipe, and is nowhere else; the caller wipes it.
func (c *Client) AddRecoverySlot(ctx context.Context, keyring string) (id string, code []byte, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	defer r.Close()
	err = c.exchange(ctx, exchange{
		at: keyringsPath, iface: keyringsIface, member: "AddRecoverySlot",
		args: []any{keyring, godbus.UnixFDIndex(0)}, files: []*os.File{w},
	}, &id)
	_ = w.Close()
	if err != nil {
		return "", nil, err
	}
	// The daemon wrote it before it answered, and it fits into a pipe.
	if err := r.SetReadDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return "", nil, err
	}
	code, err = io.ReadAll(io.LimitReader(r, maxCode))
	return id, code, err
}

// RemoveSlot removes a slot, after the user has been asked. The last one stays.
func (c *Client) RemoveSlot(ctx context.Context, keyring, slot string) error {
	return c.keyrings(ctx, "RemoveSlot", []any{keyring, slot})
}

// Moved is what became of one keyring on its way in or out.
type Moved struct {
	Path  string   `json:"path"`
	Label string   `json:"label"`
	ID    string   `json:"id,omitempty"` // of the keyring here
	Items int      `json:"items"`
	There int      `json:"there"` // were here already
	Notes []string `json:"notes,omitempty"`
	Error string   `json:"error,omitempty"`
}

// ImportKeyrings reads other programs' keyrings, or archives, at absolute paths.
// into names one keyring for all of it; "": each has its own.
func (c *Client) ImportKeyrings(ctx context.Context, paths []string, into string, archive bool) ([]Moved, error) {
	o := map[string]godbus.Variant{}
	set(o, "into", into)
	set(o, "archive", archive)
	return c.move(ctx, "Import", paths, o)
}

// An Export says what goes into an archive.
type Export struct {
	Path     string   // absolute
	Keyrings []string // by ID, alias or label; none: all that are on disk
	Plain    bool     // not encrypted
	Force    bool     // a file that is there is replaced
}

// ExportKeyrings writes keyrings into a file.
func (c *Client) ExportKeyrings(ctx context.Context, e Export) ([]Moved, error) {
	o := map[string]godbus.Variant{}
	set(o, "plain", e.Plain)
	set(o, "force", e.Force)
	if len(e.Keyrings) > 0 {
		o["keyrings"] = godbus.MakeVariant(e.Keyrings)
	}
	return c.move(ctx, "Export", e.Path, o)
}

func (c *Client) move(ctx context.Context, member string, args ...any) ([]Moved, error) {
	var all []map[string]godbus.Variant
	if err := c.keyrings(ctx, member, args, &all); err != nil {
		return nil, err
	}
	list := make([]Moved, len(all))
	for i, p := range all {
		m := &list[i]
		m.Path, _ = p["Path"].Value().(string)
		m.Label, _ = p["Label"].Value().(string)
		m.ID, _ = p["ID"].Value().(string)
		items, _ := p["Items"].Value().(uint32)
		there, _ := p["There"].Value().(uint32)
		m.Items, m.There = int(items), int(there)
		m.Notes, _ = p["Notes"].Value().([]string)
		m.Error, _ = p["Error"].Value().(string)
	}
	return list, nil
}
