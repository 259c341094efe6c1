package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

func TestEveryChangeIsTold(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		id := r.Collection
		v.must(v.UnlockWith(t.Context(), browser, id, v.credential(keyring.SlotPassphrase, "pw")))
		v.wantTold("changed " + id)
		v.must(v.UnlockWith(t.Context(), browser, id, v.credential(keyring.SlotPassphrase, "pw")))
		v.wantTold() // it was unlocked
		item := keyring.NewItem{Label: "l", Attributes: map[string]string{"a": "1"}, Secret: value(t, "new")}
		replaced, err := v.CreateItem(t.Context(), browser, id, item, true)
		v.must(err)
		if replaced != r {
			t.Errorf("replaced %v, want %v", replaced, r)
		}
		v.wantTold("item changed " + id + "/" + r.Item)
		other, err := v.CreateItem(t.Context(), browser, id, item, false)
		v.must(err)
		label := "m"
		v.must(v.ChangeItem(t.Context(), browser, other, keyring.ItemChange{Label: &label}))
		v.must(v.DeleteItem(t.Context(), browser, other))
		v.must(v.SetCollectionLabel(t.Context(), browser, id, "Other"))
		path := id + "/" + other.Item
		v.wantTold("item created "+path, "item changed "+path, "item deleted "+path, "changed "+id)
		v.must(v.Lock(t.Context(), browser, id))
		v.wantTold("changed " + id)
		v.must(v.Lock(t.Context(), browser, id))
		v.wantTold() // it was locked

		// What fails changes nothing.
		v.want("change", v.ChangeItem(t.Context(), browser, r, keyring.ItemChange{Label: &label}), keyring.ErrLocked)
		v.want("delete", v.DeleteItem(t.Context(), browser, other), keyring.ErrLocked)
		v.want("lock", v.Lock(t.Context(), browser, "nosuchthing", id), keyring.ErrNotFound)
		v.wantTold()
	})
}

func TestEventsSayWhoMadeThem(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.item("session", "v")
		if e := <-v.events; e.Caller != browser {
			t.Errorf("event %+v", e)
		}
	})
}

func TestOneThatFailsDoesNotKeepOthersFromBeingLocked(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		id := v.made("").Collection
		v.must(v.UnlockWith(t.Context(), browser, id, v.credential(keyring.SlotPassphrase, "pw")))
		v.want("lock", v.Lock(t.Context(), browser, "nosuchthing", "session", "login", id), keyring.ErrNotFound)
		v.wantLocked(id, true)
	})
}

func TestSlowReceiverIsToldToLookAgain(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		ctx, cancel := context.WithCancel(t.Context())
		keepsUp := v.Watch(ctx)
		const n = 1000
		got := make(chan int)
		go func() {
			count := 0
			for e := range keepsUp {
				if e.Kind == keyring.ItemCreated {
					count++
				}
			}
			got <- count
		}()
		for range n {
			v.item("session", "v")
			synctest.Wait()
		}
		told := v.told()
		// It stands for all that was lost, and so it comes first and once.
		if len(told) > 257 || told[0] != "everything" || slices.Contains(told[1:], "everything") {
			t.Errorf("%d events, the first is %q", len(told), told[0])
		}
		// What came after that is told as ever.
		if last := told[len(told)-1]; last != fmt.Sprintf("item created session/%d", n) && len(told) > 1 {
			t.Errorf("the last is %q", last)
		}
		v.item("session", "v")
		v.wantTold(fmt.Sprintf("item created session/%d", n+1))
		cancel()
		if count := <-got; count != n+1 {
			t.Errorf("who keeps up has got %d events of %d", count, n+1)
		}
	})
}

func TestReadsAreLoggedWithoutSecretsAndNotForEver(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		var log bytes.Buffer
		v.Log = slog.New(slog.NewTextHandler(&log, nil))
		var refs []keyring.ItemRef
		for range 100 {
			refs = append(refs, v.item("session", "hidden", "secret attribute", "hidden"))
		}
		read := func(c keyring.Caller) {
			for _, r := range refs {
				got, _, err := v.Secret(t.Context(), c, r)
				v.must(err)
				got.Wipe()
			}
		}
		lines := func() []string {
			text := strings.TrimSpace(log.String())
			log.Reset()
			if strings.Contains(text, "hidden") || strings.Contains(text, "attribute") || strings.Contains(text, "label of") {
				t.Errorf("the log tells too much: %s", text)
			}
			return strings.Split(text, "\n")
		}
		read(browser)
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "browser (9)") || !strings.Contains(got[0], "collection=session") {
			t.Errorf("logged %q", got)
		}
		<-time.After(2 * time.Minute) // on the bubble's clock
		read(browser)
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "before=99") {
			t.Errorf("logged %q", got)
		}
		for i := range 400 {
			c := keyring.Caller{Program: fmt.Sprintf("/bin/p%d", i)}
			read(c)
		}
		if got := lines(); len(got) > 300 {
			t.Errorf("%d lines of 400 programs", len(got))
		}
	})
}

// TestManyAtOnce has a hundred goroutines do everything at once; the race
// detector and the counts at the end are the test.
func TestManyAtOnce(t *testing.T) {
	v := newVault(t)
	v.user.Default = nil
	r := v.made("")
	v.addTPM(r.Collection, "")
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for round := range 5 {
				switch i % 5 {
				case 0:
					v.must(v.LockForSleep(ctx, browser))
				case 1, 2:
					if err := v.Unlock(ctx, browser, r.Collection); err != nil && !lockedAgain(err) {
						t.Error(err)
					}
				case 3:
					_, _, err := v.Search(map[string]string{"a": "1"})
					v.must(err)
					got, _, err := v.Secret(ctx, browser, r)
					if err == nil {
						if !is(got, "v") {
							t.Error("the secret is another one")
						}
						got.Wipe()
					}
				case 4:
					n := fmt.Sprintf("%d.%d", i, round)
					item := keyring.NewItem{Attributes: map[string]string{"n": n}, Secret: secret.Copy([]byte(n))}
					_, err := v.CreateItem(ctx, browser, "session", item, true)
					item.Secret.Wipe()
					v.must(err)
				}
			}
		})
	}
	wg.Wait()
	if items, err := v.Items("session"); err != nil || len(items) != 100 {
		t.Errorf("%d items, error %v", len(items), err)
	}
	v.must(v.Unlock(ctx, browser, r.Collection))
	v.wantSecret(r, "v")
	v.asked()
}

// lockedAgain reports whether an unlock came to nothing because of a lock.
func lockedAgain(err error) bool { return errors.Is(err, keyring.ErrLocked) }
