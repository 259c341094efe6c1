package keyring_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func newSigner(t testing.TB) crypto.Signer {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func labels(list []keyring.KeyInfo) (l []string) {
	for _, i := range list {
		l = append(l, i.Label)
	}
	return l
}

func expectLabels(t *testing.T, k *keyring.Keys, want ...string) {
	t.Helper()
	if got := labels(k.List()); !slices.Equal(got, want) {
		t.Errorf("keys are %q, want %q", got, want)
	}
}

func request(k keyring.Key) keyring.SignRequest {
	return keyring.SignRequest{Caller: git, Key: k.Info().ID, Reason: "test", Digest: []byte("message"), Opts: crypto.Hash(0)}
}

func TestKeysAreInOrder(t *testing.T) {
	keys := keyring.NewKeys(keyring.NewGate(nil))
	key := func(kind keyring.Kind, label string, paths ...string) keyring.Key {
		return keyringtest.NewFakeKey(newSigner(t), kind, label, paths...)
	}
	keys.Replace("added", []keyring.Key{key(keyring.KindAdded, "z added"), key(keyring.KindAdded, "a added")})
	keys.Replace("files", []keyring.Key{key(keyring.KindFile, "file b", "/b"), key(keyring.KindFile, "file a", "/a", "/z")})
	keys.Replace("tpm", []keyring.Key{key(keyring.KindTPM, "tpm y", "/y"), key(keyring.KindTPM, "tpm x", "/x")})
	expectLabels(t, keys, "tpm x", "tpm y", "file a", "file b", "z added", "a added")
	keys.Replace("files", nil)
	expectLabels(t, keys, "tpm x", "tpm y", "z added", "a added")
}

func TestOneIdentityForOneKey(t *testing.T) {
	signer := newSigner(t)
	tpmKey := keyringtest.NewFakeKey(signer, keyring.KindTPM, "tpm", "/tpm")
	file := keyringtest.NewFakeKey(signer, keyring.KindFile, "file", "/a", "/tpm")
	added := keyringtest.NewFakeKey(signer, keyring.KindAdded, "added")
	added.KeyInfo.Confirm = true
	file.Locked("1234", nil)
	tpmKey.KeyInfo.Paths = append(make([]string, 0, 8), "/tpm") // room to be overwritten in

	user := scripted()
	keys := keyring.NewKeys(keyring.NewGate(user))
	keys.Replace("files", []keyring.Key{file})
	keys.Replace("tpm", []keyring.Key{tpmKey})
	keys.Replace("added", []keyring.Key{added})
	expectLabels(t, keys, "tpm")
	info, err := keys.Find(tpmKey.Info().ID)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(info.Paths, []string{"/a", "/tpm"}) || info.Kind != keyring.KindTPM || info.NeedsAuth || !info.Confirm {
		t.Errorf("the identity is %+v", info)
	}
	if !slices.Equal(file.KeyInfo.Paths, []string{"/a", "/tpm"}) || !slices.Equal(tpmKey.KeyInfo.Paths, []string{"/tpm"}) {
		t.Error("the keys' own paths were changed")
	}
	user.Script(yes())
	if _, err := keys.Sign(t.Context(), request(tpmKey)); err != nil {
		t.Fatal(err)
	}
	if tpmKey.Signed() != 1 {
		t.Error("the TPM key did not sign")
	}
	keys.Replace("tpm", nil)
	expectLabels(t, keys, "added")
	keys.Replace("added", nil)
	expectLabels(t, keys, "file")
}

func TestTheOrderOfSourcesDoesNotMatter(t *testing.T) {
	signer := newSigner(t)
	b := keyringtest.NewFakeKey(signer, keyring.KindFile, "b", "/b")
	a := keyringtest.NewFakeKey(signer, keyring.KindFile, "a", "/a")
	for _, order := range [][]keyring.Key{{a, b}, {b, a}} {
		keys := keyring.NewKeys(keyring.NewGate(nil))
		keys.Replace("one", order)
		expectLabels(t, keys, "a")
		keys = keyring.NewKeys(keyring.NewGate(nil))
		keys.Replace("one", order[:1])
		keys.Replace("two", order[1:])
		expectLabels(t, keys, "a")
	}
}

func TestGenerationChangesWithTheList(t *testing.T) {
	keys := keyring.NewKeys(keyring.NewGate(nil))
	signer := newSigner(t)
	newKey := func(label, path string, needsAuth bool) keyring.Key {
		k := keyringtest.NewFakeKey(signer, keyring.KindFile, label, path)
		k.KeyInfo.NeedsAuth = needsAuth
		return k
	}
	last := keys.Generation()
	step := func(name string, change bool, set ...keyring.Key) {
		t.Helper()
		keys.Replace("files", set)
		if now := keys.Generation(); (now != last) != change {
			t.Errorf("%s: generation went from %d to %d", name, last, now)
		}
		last = keys.Generation()
	}
	k := newKey("key", "/key", false)
	step("nothing for nothing", false)
	step("a key", true, k)
	step("the same key", false, k)
	step("a new object: its file was replaced", true, newKey("key", "/key", false))
	step("another label", true, newKey("renamed", "/key", false))
	step("another path", true, newKey("renamed", "/moved", false))
	step("another need", true, newKey("renamed", "/moved", true))
	step("gone", true)
}

func TestWatchTellsOfChangesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := keyring.NewKeys(keyring.NewGate(nil))
		ctx, cancel := context.WithCancel(t.Context())
		w := keys.Watch(ctx)
		select {
		case <-w:
			t.Error("told of a change before there was one")
		default:
		}
		for i := range 3 {
			keys.Replace("files", []keyring.Key{keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, fmt.Sprint(i), "/key")})
		}
		<-w
		select {
		case <-w:
			t.Error("told twice of what could be told once")
		default:
		}
		keys.Replace("other", nil)
		select {
		case <-w:
			t.Error("told of a change that was none")
		default:
		}
		cancel()
		if _, open := <-w; open {
			t.Error("the channel outlives its context")
		}
		keys.Replace("files", nil) // does not send on the closed channel
	})
}

func TestReplacedKeyIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		signer := newSigner(t)
		newKey := func(pin string) *keyringtest.FakeKey {
			return keyringtest.NewFakeKey(signer, keyring.KindTPM, "key", "/key").Locked(pin, nil)
		}
		old, neighbour := newKey("1234"), keyringtest.NewFakeKey(newSigner(t), keyring.KindTPM, "neighbour", "/n").Locked("1234", nil)
		keys.Replace("tpm", []keyring.Key{old, neighbour})
		for _, k := range []keyring.Key{old, neighbour} {
			b.user.Script(answer("1234"))
			if _, err := keys.Sign(t.Context(), request(k)); err != nil {
				t.Fatal(err)
			}
		}
		b.asked(2)
		keys.Replace("tpm", []keyring.Key{old, neighbour})
		if len(b.Remembered()) != 2 {
			t.Error("the same keys again made the gate forget")
		}
		fresh := newKey("5678")
		keys.Replace("tpm", []keyring.Key{fresh, neighbour})
		if len(b.Remembered()) != 1 || old.Forgotten() == 0 || neighbour.Forgotten() != 0 {
			t.Errorf("%d values remembered; Forget: old %d, neighbour %d", len(b.Remembered()), old.Forgotten(), neighbour.Forgotten())
		}
		b.user.Script(answer("5678"))
		if _, err := keys.Sign(t.Context(), request(fresh)); err != nil {
			t.Fatal(err)
		}
		if q := b.asked(1)[0]; q.Warning != "" || !q.PIN {
			t.Errorf("asked %+v", q)
		}
		keys.Replace("tpm", nil)
		if len(b.Remembered()) != 0 || fresh.Forgotten() == 0 || neighbour.Forgotten() == 0 {
			t.Error("removed keys are remembered")
		}
		if _, err := keys.Sign(t.Context(), request(fresh)); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("signing with a removed key: %v", err)
		}
		b.asked(0)
	})
}

func TestSignLooksAtTheKeysDevice(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		d := &keyringtest.FakeDevice{Max: 3}
		k := keyringtest.NewFakeKey(newSigner(t), keyring.KindTPM, "key", "/key").Locked("1234", d)
		keys.Replace("tpm", []keyring.Key{k})
		b.user.Script(answer("1"), answer("2"), answer("3"))
		sig, err := keys.Sign(t.Context(), request(k))
		if !errors.Is(err, keyring.ErrLockedOut) || sig != nil || d.Tries().Left != 1 {
			t.Errorf("%d bytes, %v, %d tries left", len(sig), err, d.Tries().Left)
		}
		b.asked(2)
	})
}

func TestPassphraseOfAFileKey(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		// Behind the interface alone: neither Guarded nor Forgetter.
		k := struct{ keyring.Key }{keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "key", "/key").Locked("1234", nil)}
		keys.Replace("files", []keyring.Key{k})
		b.user.Script(answer("wrong"), answer("1234"))
		if _, err := keys.Sign(t.Context(), request(k)); err != nil {
			t.Fatal(err)
		}
		if q := b.asked(2)[1]; q.PIN || q.Left != 2 || !q.Retry {
			t.Errorf("asked %+v", q)
		}
	})
}

// TestKeyChangesDuringPrompt has a source work while the user is being asked.
func TestKeyChangesDuringPrompt(t *testing.T) {
	signer := newSigner(t)
	newKey := func() *keyringtest.FakeKey {
		return keyringtest.NewFakeKey(signer, keyring.KindTPM, "key", "/key").Locked("1234", nil)
	}
	during := func(t *testing.T, b *bench, keys *keyring.Keys, change func()) ([]byte, error) {
		release := make(chan struct{})
		b.user.Script(keyringtest.Reply{Passphrase: "1234", When: release})
		k, err := keys.Find(newKey().Info().ID)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		var sig []byte
		go func() {
			var err error
			sig, err = keys.Sign(t.Context(), keyring.SignRequest{Caller: git, Key: k.ID, Digest: []byte("m"), Opts: crypto.Hash(0)})
			done <- err
		}()
		synctest.Wait()
		change()
		close(release)
		err = <-done
		return sig, err
	}
	t.Run("removed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bench) {
			keys := keyring.NewKeys(b.Gate)
			old := newKey()
			keys.Replace("tpm", []keyring.Key{old})
			sig, err := during(t, b, keys, func() { keys.Replace("tpm", nil) })
			if !errors.Is(err, keyring.ErrNotFound) || sig != nil || old.Signed() != 0 {
				t.Errorf("%d bytes, %v; the removed key signed %d times", len(sig), err, old.Signed())
			}
		})
	})
	t.Run("removed while it is confirmed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bench) {
			keys := keyring.NewKeys(b.Gate)
			old := keyringtest.NewFakeKey(signer, keyring.KindTPM, "key", "/key")
			old.KeyInfo.Confirm = true
			keys.Replace("tpm", []keyring.Key{old})
			_, err := during(t, b, keys, func() { keys.Replace("tpm", nil) })
			if !errors.Is(err, keyring.ErrNotFound) || old.Signed() != 0 {
				t.Errorf("%v; the removed key signed %d times", err, old.Signed())
			}
		})
	})
	t.Run("replaced", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bench) {
			keys := keyring.NewKeys(b.Gate)
			old, fresh := newKey(), newKey()
			keys.Replace("tpm", []keyring.Key{old})
			sig, err := during(t, b, keys, func() { keys.Replace("tpm", []keyring.Key{fresh}) })
			if err != nil || len(sig) == 0 || old.Signed() != 0 || fresh.Signed() != 1 {
				t.Errorf("%v; the old key signed %d times, the new one %d", err, old.Signed(), fresh.Signed())
			}
			// What the new one derived is forgotten with the value.
			b.Lock()
			if fresh.Forgotten() == 0 {
				t.Error("Lock did not reach the key that signed")
			}
		})
	})
	t.Run("replaced by one that wants to be confirmed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bench) {
			keys := keyring.NewKeys(b.Gate)
			old, fresh := newKey(), newKey()
			fresh.KeyInfo.Confirm = true
			keys.Replace("tpm", []keyring.Key{old})
			sig, err := during(t, b, keys, func() {
				keys.Replace("tpm", []keyring.Key{fresh})
				b.user.Script(dismiss())
			})
			if !errors.Is(err, keyring.ErrDenied) || sig != nil || fresh.Signed() != 0 {
				t.Errorf("%v; the new key signed %d times without being allowed to", err, fresh.Signed())
			}
			b.asked(2)
		})
	})
	t.Run("replaced all the time", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bench) {
			keys := keyring.NewKeys(b.Gate)
			k := newKey()
			keys.Replace("tpm", []keyring.Key{k})
			flip := func(q prompt.Question) keyringtest.Reply {
				next := newKey()
				if info, _ := keys.Find(k.Info().ID); info.NeedsAuth {
					next.KeyInfo.NeedsAuth, next.KeyInfo.Confirm = false, true
				}
				keys.Replace("tpm", []keyring.Key{next})
				return answer("1234")
			}
			b.user.Default = flip
			if _, err := keys.Sign(t.Context(), request(k)); !errors.Is(err, keyring.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestListDuringPromptAndSign(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		asking := keyringtest.NewFakeKey(newSigner(t), keyring.KindTPM, "asking", "/a").Locked("1234", nil)
		slow := keyringtest.NewFakeKey(newSigner(t), keyring.KindTPM, "slow", "/s")
		working := make(chan struct{})
		slow.Hook = func(context.Context) error { <-working; return nil }
		plain := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "plain", "/p")
		set := []keyring.Key{asking, slow, plain}
		keys.Replace("tpm", set)
		answered := make(chan struct{})
		b.user.Script(keyringtest.Reply{Passphrase: "1234", When: answered})
		var wg sync.WaitGroup
		for _, k := range set[:2] {
			wg.Go(func() {
				if _, err := keys.Sign(t.Context(), request(k)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		// A bubble's clock stands still while anything can run: had any of this
		// to wait, the test would not get past it.
		start := time.Now()
		expectLabels(t, keys, "asking", "slow", "plain")
		keys.Generation()
		if _, err := keys.Find(asking.Info().ID); err != nil {
			t.Error(err)
		}
		if _, err := keys.Sign(t.Context(), request(plain)); err != nil {
			t.Error(err)
		}
		keys.Replace("more", []keyring.Key{keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "more", "/q")})
		b.Approvals()
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		close(working)
		close(answered)
		wg.Wait()
	})
}

func TestKeysUnderConcurrentReplace(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		k := keyringtest.NewFakeKey(newSigner(t), keyring.KindTPM, "key", "/key")
		keys.Replace("tpm", []keyring.Key{k})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for range 50 {
					keys.Replace(fmt.Sprint(i), []keyring.Key{keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "x", "/x")})
					keys.Watch(ctx)
					keys.Replace(fmt.Sprint(i), nil)
				}
			})
			wg.Go(func() {
				for range 50 {
					if l := keys.List(); len(l) < 1 || len(l) > 5 || l[0].Label != "key" {
						t.Errorf("list is %q", labels(l))
					}
					if _, err := keys.Sign(t.Context(), request(k)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		expectLabels(t, keys, "key")
	})
}

func BenchmarkReplace1000(b *testing.B) {
	var set []keyring.Key
	for i := range 1000 {
		set = append(set, keyringtest.NewFakeKey(newSigner(b), keyring.KindFile, "key", fmt.Sprintf("/keys/%d", i*7919%1000)))
	}
	keys := keyring.NewKeys(keyring.NewGate(nil))
	for b.Loop() {
		keys.Replace("files", set)
		if len(keys.List()) != 1000 {
			b.Fatal("keys are missing")
		}
	}
}
