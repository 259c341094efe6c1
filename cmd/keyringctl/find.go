package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/caller"
)

// findKey returns the one key that a name means.
func findKey(ctx context.Context, d *client.Client, name string) (client.Key, error) {
	keys, err := d.Keys(ctx)
	if err != nil {
		return client.Key{}, err
	}
	found := match(keys, name)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return client.Key{}, hintedError{fmt.Errorf("there is no key %q", name), "keyringctl key list shows those that there are"}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d keys are called %q:", len(found), name)
	for _, k := range found {
		fmt.Fprintf(&b, "\n  %s  %s  %s  %s", k.ID[:min(len(k.ID), 12)], k.Algorithm, k.Fingerprint, strings.Join(k.Paths, " "))
	}
	return client.Key{}, hintedError{fmt.Errorf("%s", b.String()), "name it by the first characters of its ID, in the first column"}
}

// completionWait is how long a press of the tab key may wait for the daemon.
const completionWait = 500 * time.Millisecond

// completeKey offers the keys' labels, with what tells them apart.
func (s *session) completeKey(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completionWait)
	defer cancel()
	d, err := s.dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer d.Close()
	keys, err := d.Keys(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, k := range keys {
		names = append(names, caller.Sanitize(k.Label, maxCell)+"\t"+k.Algorithm+" "+k.Fingerprint)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
