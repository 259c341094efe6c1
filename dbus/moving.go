package dbus

import (
	"fmt"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// maxMoving is how many files or keyrings one call may name.
const maxMoving = 1000

// mover returns who moves secrets, for programs outside of a sandbox.
func (c *call) mover() (keyring.Mover, error) {
	if err := c.files(); err != nil {
		return nil, err
	}
	if m := c.bus.server.Mover; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%w: there are no keyrings", keyring.ErrUnsupported)
}

// importSecrets is Keyrings1.Import.
func (c *call) importSecrets(paths []string, options map[string]godbus.Variant) ([]properties, error) {
	o := readOptions(options)
	r := keyring.ImportSecretsRequest{Caller: c.caller, Paths: paths, Archive: option[bool](o, "archive"), Into: option[string](o, "into")}
	for _, p := range paths {
		o.path("a path", p)
	}
	if len(paths) == 0 || len(paths) > maxMoving {
		o.wrong("%d paths, and 1 to %d are allowed", len(paths), maxMoving)
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	m, err := c.mover()
	if err != nil {
		return nil, err
	}
	all, err := m.Import(c.ctx, r)
	return moved(all), err
}

// exportSecrets is Keyrings1.Export.
func (c *call) exportSecrets(path string, options map[string]godbus.Variant) ([]properties, error) {
	o := readOptions(options)
	r := keyring.ExportRequest{
		Caller: c.caller, Path: o.path("path", path), Collections: option[[]string](o, "keyrings"),
		Plain: option[bool](o, "plain"), Force: option[bool](o, "force"),
	}
	if len(r.Collections) > maxMoving {
		o.wrong("%d keyrings, and %d are the most", len(r.Collections), maxMoving)
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	m, err := c.mover()
	if err != nil {
		return nil, err
	}
	all, err := m.Export(c.ctx, r)
	return moved(all), err
}

// moved is what became of keyrings, as Keyrings1 says it.
func moved(all []keyring.Moved) []properties {
	list := []properties{}
	for _, m := range all {
		p := properties{
			"Path":  godbus.MakeVariant(text(m.Path)),
			"Label": godbus.MakeVariant(text(m.Label)),
			"Items": godbus.MakeVariant(uint32(m.Items)),
			"There": godbus.MakeVariant(uint32(m.There)),
		}
		if m.Collection != "" {
			p["ID"] = godbus.MakeVariant(m.Collection)
		}
		if len(m.Notes) > 0 {
			notes := make([]string, len(m.Notes))
			for i, n := range m.Notes {
				notes[i] = text(n)
			}
			p["Notes"] = godbus.MakeVariant(notes)
		}
		if m.Err != nil {
			p["Error"] = godbus.MakeVariant(text(m.Err.Error()))
		}
		list = append(list, p)
	}
	return list
}

// text is a text that the bus takes: labels and file names come from anywhere
// (D-Bus Specification, "Valid strings").
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}
