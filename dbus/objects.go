package dbus

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"
)

// A node is an object's path with what answers there. It is made for one call.
type node struct {
	path       godbus.ObjectPath
	interfaces []string
	children   []string
	properties map[string]properties // by interface
	key        *entry                // of a key's node
}

// everywhere are the interfaces of every node.
var everywhere = []string{introspectionInterface, peerInterface}

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
		n.children = []string{path.Base(string(keysPath))}
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
	default:
		// The nodes above ours are there to be walked through.
		below, ok := strings.CutPrefix(string(rootPath), strings.TrimSuffix(string(at), "/")+"/")
		if !ok {
			return n, fmt.Errorf("%w: %.200s", errUnknownObject, at)
		}
		child, _, _ := strings.Cut(below, "/")
		n.children = []string{child}
	}
	return n, nil
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
	for _, child := range c.node.children {
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

func (c *call) setProperty(in, name string, _ godbus.Variant) error {
	if _, err := c.getProperty(in, name); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", errReadOnly, name)
}
