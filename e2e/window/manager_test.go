package window

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/bustest"
)

const managerTitle = "^Keys and Passwords$"

// soon reports whether something comes within a few seconds.
func soon(done func() bool) bool {
	limit := time.After(5 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			return false
		}
	}
	return true
}

// The manager's window, a real daemon and a TPM: a key is made with the keyboard,
// and a keyring unlocked with the mouse.
func TestManager(t *testing.T) {
	s := newScreen(t)
	bus := bustest.Start(t)
	d, _ := s.daemon("--bus", bus.Address)
	env := append(s.env, "DBUS_SESSION_BUS_ADDRESS="+bus.Address, "XDG_CONFIG_HOME="+d.Dir)
	c, err := client.Dial(t.Context(), bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	await(t, "the daemon on the bus", func() bool { _, err := c.Status(t.Context()); return err == nil })

	// A keyring, locked.
	made := make(chan string, 1)
	go func() {
		id, err := c.CreateKeyring(t.Context(), "Work")
		if err != nil {
			t.Error(err)
		}
		made <- id
	}()
	s.window()
	s.types("correct horse")
	s.keys("Tab")
	s.types("correct horse")
	s.keys("Return")
	work := <-made
	s.gone()
	if err := c.LockKeyring(t.Context(), work); err != nil {
		t.Fatal(err)
	}

	run(t, env, nil, binary, "manager")
	manager := func() string { return s.ask("search", "--onlyvisible", "--name", managerTitle) }
	await(t, "the manager", func() bool { id := manager(); return id != "" && id == s.ask("getactivewindow") })

	// A key that it makes has the PIN that is typed into the other window.
	begun := false
	for range 6 {
		s.keys("ctrl+n")
		s.types("id-made")
		s.keys("Return")
		if begun = soon(func() bool { return s.visible() != "" }); begun {
			break
		}
		s.keys("Escape") // it came before the window knew of the daemon
	}
	if !begun {
		t.Fatal("nobody asks for the new key's PIN")
	}
	s.window()
	s.types("4712")
	s.keys("Tab")
	s.types("4712")
	s.keys("Return")
	s.gone()
	await(t, "the new key", func() bool {
		keys, err := c.Keys(t.Context())
		return err == nil && len(keys) == 2
	})
	if _, err := os.Stat(d.Keys + "/id-made.pub"); err != nil {
		t.Error(err)
	}
	s.picture(manager(), "manager-keys")

	// The keyring is the second in the list, and its button in the middle.
	click := func(x, y string) {
		t.Helper()
		if err := s.tool("xdotool", "mousemove", "--window", manager(), x, y, "click", "1"); err != nil {
			t.Fatal(err)
		}
	}
	begun = false
	for range 6 {
		click("120", "259")
		armed()
		click("643", "446")
		if begun = soon(func() bool { return s.visible() != "" }); begun {
			break
		}
	}
	if !begun {
		s.picture(manager(), "manager-keyring")
		t.Fatal("nobody asks for the keyring's passphrase")
	}
	s.window()
	s.types("correct horse")
	s.keys("Return")
	s.gone()
	await(t, "the keyring to be unlocked", func() bool {
		all, err := c.Keyrings(t.Context())
		for _, k := range all {
			if k.ID == work && !k.Locked {
				return err == nil
			}
		}
		return false
	})
	s.picture(manager(), "manager-passwords")

	// Without a daemon it stays, and goes on by itself.
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Keys(ctx); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("the daemon: %v", err)
	}
	if manager() == "" {
		t.Error("the manager left with the daemon")
	}
	s.picture(manager(), "manager-no-daemon")
}
