package dbus

import (
	"fmt"
	"os"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// A node is an object's path with what answers there. It is made for one call.
type node struct {
	path       godbus.ObjectPath
	interfaces []string
	children   []string
	properties map[string]properties // by interface

	// What is looked up only where it is asked for: the properties of
	// interfaces[0], and the children, whose error is that the node is not there.
	read func() (properties, error)
	list func() ([]string, error)

	key    *entry          // of a key's node
	item   keyring.ItemRef // of an item's node, and without Item of a collection's
	prompt *userPrompt     // of a prompt's node
	cancel func()          // of a portal request's node
}

// everywhere are the interfaces of every node.
var everywhere = []string{introspectionInterface, peerInterface}

// lookup finds the node of a path for a sender: the sender's own ones, which are
// nobody else's, and everybody's.
func (b *bus) lookup(from *sender, at godbus.ObjectPath) (node, error) {
	if n, ok := b.own(from, at); ok {
		return n, nil
	}
	if b.server.Secrets != nil && ofSecrets(at) {
		if err := b.awaitSecrets(from.ctx); err != nil {
			return node{}, err
		}
	}
	return b.server.lookup(at)
}

// ofSecrets reports whether what is at a path is made of the secrets.
func ofSecrets(at godbus.ObjectPath) bool {
	return at == keyringsPath || at == portalPath || at == secretsPath || strings.HasPrefix(string(at), string(secretsPath)+"/")
}

// own finds what is the sender's alone: sessions, prompts, portal requests.
func (b *bus) own(from *sender, at godbus.ObjectPath) (n node, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n.path = at
	var in string
	switch {
	case from.sessions[at] != nil:
		in = sessionInterface
	case from.prompts[at] != nil:
		in, n.prompt = promptInterface, from.prompts[at]
	case from.requests[at] != nil:
		in, n.cancel = requestInterface, from.requests[at]
	default:
		return n, false
	}
	n.interfaces = slices.Concat([]string{in}, everywhere)
	return n, true
}

// lookup finds the node of a path.
func (s *Server) lookup(at godbus.ObjectPath) (node, error) {
	n := node{path: at, interfaces: everywhere}
	keys, err := s.catalog()
	if err != nil {
		return n, err
	}
	switch {
	case at == rootPath:
		n.interfaces = slices.Concat([]string{keyringInterface, managerInterface, propertiesInterface}, everywhere)
		n.children = []string{base(keysPath)}
		if s.Secrets != nil {
			n.children = append(n.children, base(keyringsPath))
		}
		n.properties = map[string]properties{keyringInterface: {"Version": godbus.MakeVariant(s.Version)}}
	case at == keysPath:
		n.interfaces = slices.Concat([]string{keysInterface}, everywhere)
		for _, e := range keys.order {
			n.children = append(n.children, e.info.ID.String())
		}
	case keys.byPath[at] != nil:
		n.key = keys.byPath[at]
		n.interfaces = slices.Concat([]string{keyInterface, propertiesInterface}, everywhere)
		n.properties = map[string]properties{keyInterface: n.key.properties}
	case s.Secrets != nil && at == keyringsPath:
		n.interfaces = slices.Concat([]string{keyringsInterface}, everywhere)
	case s.Secrets != nil && at == portalPath:
		return s.lookupPortal(n), nil
	case s.Secrets != nil && ofSecrets(at):
		return s.lookupSecrets(n)
	default:
		if n.children = s.above(at); n.children == nil {
			return n, fmt.Errorf("%w: %.200s", errUnknownObject, at)
		}
	}
	return n, nil
}

// above returns the children of a node that is only there to be walked through.
func (s *Server) above(at godbus.ObjectPath) (children []string) {
	roots := []godbus.ObjectPath{rootPath}
	if s.Secrets != nil {
		roots = append(roots, portalPath, secretsPath)
	}
	for _, root := range roots {
		below, ok := strings.CutPrefix(string(root), strings.TrimSuffix(string(at), "/")+"/")
		child, _, _ := strings.Cut(below, "/")
		if ok && !slices.Contains(children, child) {
			children = append(children, child)
		}
	}
	return children
}

// method finds a method of the node. The interface may be left out: D-Bus
// Specification, "Message Types".
func (s *Server) method(n node, in, member string) (*method, error) {
	if in != "" && !slices.Contains(n.interfaces, in) {
		return nil, fmt.Errorf("%w: %.200s", errUnknownInterface, in)
	}
	for _, name := range n.interfaces {
		if in != "" && in != name {
			continue
		}
		if m := s.tables[name].methods[member]; m != nil {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%w: %.200s", errUnknownMethod, member)
}

// introspect describes the node in the words of the interface files.
func (c *call) introspect() (string, error) {
	var b strings.Builder
	b.WriteString(`<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
`)
	for _, name := range c.node.interfaces {
		b.WriteString("  " + c.bus.server.tables[name].text + "\n")
	}
	children := c.node.children
	if c.node.list != nil {
		var err error
		if children, err = c.node.list(); err != nil {
			return "", err
		}
	}
	for _, child := range children {
		b.WriteString("  <node name=\"" + child + "\"/>\n")
	}
	b.WriteString("</node>\n")
	return b.String(), nil
}

func (c *call) ping() error { return nil }

// machineID is asked of every program by the specification; this one knows no
// more than machine-id(5).
func (c *call) machineID() (string, error) {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) < 32 {
		return "", fmt.Errorf("%w: this machine has no ID", errUnknownMethod)
	}
	return string(id[:32]), nil
}

// managedObjects answers from what is encoded once per change, so that asking
// for a thousand keys in a loop costs a copy each.
func (c *call) managedObjects() (encoded[objects], error) {
	keys, err := c.bus.server.catalog()
	if err != nil {
		return nil, err
	}
	return keys.managed, nil
}

func (c *call) getProperty(in, name string) (godbus.Variant, error) {
	all, err := c.allProperties(in)
	if err != nil {
		return godbus.Variant{}, err
	}
	v, ok := all[name]
	if !ok && name == "Items" && in == collectionInterface {
		refs, err := c.bus.server.Secrets.Items(c.node.item.Collection) // says why it is left out
		return godbus.MakeVariant(itemPaths(refs)), err
	}
	if !ok {
		return v, fmt.Errorf("%w: %.200s", errUnknownProperty, name)
	}
	return v, nil
}

// allProperties returns the properties of an interface; that of one without any
// is empty, as is that of no interface in particular.
func (c *call) allProperties(in string) (properties, error) {
	if in != "" && !slices.Contains(c.node.interfaces, in) {
		return nil, fmt.Errorf("%w: %.200s", errUnknownInterface, in)
	}
	if c.node.read != nil && (in == "" || in == c.node.interfaces[0]) {
		return c.node.read()
	}
	if in == "" {
		for _, all := range c.node.properties {
			return all, nil
		}
	}
	if all := c.node.properties[in]; all != nil {
		return all, nil
	}
	return properties{}, nil
}

func (c *call) setProperty(in, name string, v godbus.Variant) error {
	if _, err := c.getProperty(in, name); err != nil {
		return err
	}
	switch in + "." + name {
	case collectionInterface + ".Label":
		return set(v, c.setCollectionLabel)
	case itemInterface + ".Label":
		return set(v, c.setItemLabel)
	case itemInterface + ".Attributes":
		return set(v, c.setItemAttributes)
	case itemInterface + ".Type":
		return set(v, c.setItemType)
	}
	return fmt.Errorf("%w: %s", errReadOnly, name)
}

// set sets a property to a value of its type.
func set[T any](v godbus.Variant, to func(T) error) error {
	value, ok := v.Value().(T)
	if !ok {
		return badArgument("a value of type %s", v.Signature())
	}
	return to(value)
}
