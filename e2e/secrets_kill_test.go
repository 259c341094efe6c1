package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/secretstest"
)

// An entry is what an oracle knows of one item: the value that was acknowledged
// last, and the one that was on its way when the daemon died. "" is no item.
type entry struct {
	path       godbus.ObjectPath // "": not known
	acked      string
	unsure     string
	inProgress bool
}

// A writer changes items of its own, and remembers what it was told. It is one
// goroutine's.
type writer struct {
	id      int
	random  *rand.Rand
	entries map[string]*entry // by the attribute n
	serial  int
	acks    int
}

const perWriter = 12

// value is a new value for an item; it says whose it is.
func (w *writer) value(n string) string {
	w.serial++
	return fmt.Sprintf("%s=%d:%s", n, w.serial, strings.Repeat("x", w.random.IntN(3000)))
}

// change makes one change, and returns the error that it ended with.
func (w *writer) change(c *secretstest.Client, collection godbus.ObjectPath) error {
	n := fmt.Sprintf("%d.%d", w.id, w.random.IntN(perWriter))
	e := w.entries[n]
	if e == nil {
		e = &entry{}
		w.entries[n] = e
	}
	next := ""
	if e.acked == "" || w.random.IntN(4) > 0 {
		next = w.value(n)
	}
	e.unsure, e.inProgress = next, true
	var err error
	switch {
	case next == "":
		err = c.Delete(e.path)
	case e.acked == "" || w.random.IntN(3) == 0:
		var path godbus.ObjectPath
		path, err = c.Store(collection, "item "+n, map[string]string{"n": n, "writer": fmt.Sprint(w.id)}, []byte(next), true)
		if err == nil {
			e.path = path
		}
	default:
		err = c.SetSecret(e.path, []byte(next))
	}
	if err != nil {
		return err
	}
	w.acks++
	e.acked, e.inProgress = next, false
	return nil
}

// check compares what is there with what was acknowledged, and takes what is
// there for what happened to the changes that were on their way.
func (w *writer) check(t *testing.T, found map[string]godbus.ObjectPath, values map[string]string) {
	t.Helper()
	for n, e := range w.entries {
		got := values[n]
		if got != e.acked && (!e.inProgress || got != e.unsure) {
			t.Errorf("item %s: acknowledged %.20q, on its way %v %.20q, found %.20q", n, e.acked, e.inProgress, e.unsure, got)
		}
		if e.acked != "" && got != "" && e.path != found[n] {
			t.Errorf("item %s moved from %s to %s", n, e.path, found[n])
		}
		e.path, e.acked, e.inProgress = found[n], got, false
	}
}

// kills is how often the daemon is killed: KEYRINGD_KILLS, or a few.
func kills(t *testing.T) int {
	text := os.Getenv("KEYRINGD_KILLS")
	if text == "" {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("KEYRINGD_KILLS: %v", err)
	}
	return n
}

// TestSecretsSurviveKill kills the daemon while four programs write: what was
// acknowledged is there, what was on its way is there whole or not at all, and
// nothing else is.
func TestSecretsSurviveKill(t *testing.T) {
	t.Parallel()
	c := newCabinet(t, "none")
	collection, err := c.client().Make("written", passphrase)
	if err != nil {
		t.Fatal(err)
	}
	writers := make([]*writer, 4)
	for i := range writers {
		writers[i] = &writer{id: i, random: rand.New(rand.NewPCG(uint64(i), 7)), entries: map[string]*entry{}}
	}
	pauses := rand.New(rand.NewPCG(1, 2))
	for range kills(t) {
		var group sync.WaitGroup
		for _, w := range writers {
			client := c.client()
			group.Go(func() {
				for w.change(client, collection) == nil {
				}
			})
		}
		timer := time.NewTimer(time.Duration(pauses.IntN(40_000)) * time.Microsecond)
		<-timer.C
		c.Kill()
		group.Wait()

		c.Start("none", "--bus", c.bus.Address)
		client := c.reconnect()
		if err := client.UnlockWith(collection, passphrase); err != nil {
			t.Fatal(err)
		}
		found, values := c.contents(client, collection)
		for _, w := range writers {
			w.check(t, found, values)
			for n := range w.entries {
				delete(values, n)
			}
		}
		if len(values) > 0 {
			t.Errorf("nobody wrote %v", values)
		}
		if t.Failed() {
			break
		}
		_ = client.Close()
	}
	acks := 0
	for _, w := range writers {
		acks += w.acks
	}
	if acks < kills(t) {
		t.Errorf("%d changes were acknowledged: the test sees nothing", acks)
	}
	t.Logf("%d kills, %d acknowledged changes", kills(t), acks)
	if strings.Contains(c.Log.String(), "damage") {
		t.Error("there was damage")
	}
}

// reconnect waits for the Secret Service of a daemon that was started again.
func (c cabinet) reconnect() *secretstest.Client {
	c.t.Helper()
	var client *secretstest.Client
	await(c.t, "Secret Service", func() (ok bool) {
		var err error
		client, err = secretstest.Dial(c.bus.Address)
		return err == nil
	})
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// contents returns what lies in a collection: paths and values, by n. That
// searching finds the same is part of it.
func (c cabinet) contents(client *secretstest.Client, collection godbus.ObjectPath) (found map[string]godbus.ObjectPath, values map[string]string) {
	c.t.Helper()
	paths, err := client.Items(collection)
	if err != nil {
		c.t.Fatal(err)
	}
	secrets, err := client.Secrets(paths...)
	if err != nil {
		c.t.Fatal(err)
	}
	found, values = map[string]godbus.ObjectPath{}, map[string]string{}
	for _, path := range paths {
		secret, ok := secrets[path]
		n, _, _ := strings.Cut(string(secret), "=")
		if !ok || values[n] != "" {
			c.t.Errorf("%s has no secret, or that of another: %.20q", path, secret)
			continue
		}
		found[n], values[n] = path, string(secret)
		unlocked, _, err := client.Search(map[string]string{"n": n})
		if err != nil || len(unlocked) != 1 || unlocked[0] != path {
			c.t.Errorf("a search for %s, which is %s: %v %v", n, path, unlocked, err)
		}
	}
	return found, values
}
