package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestUnlockAsksForThePassphrase(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.user.Script(answer("wrong"), answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		q := v.asked(prompt.Passphrase, prompt.Passphrase)
		if q[0].Subject != "keyring “Mine”" || q[0].Caller != "browser (9)" || q[0].Retry || !q[1].Retry || q[0].Remember != 0 || q[0].Automatic {
			t.Errorf("asked %+v", q)
		}
		v.wantSecret(r, "v")
		v.wantTold("changed " + r.Collection)
		v.must(v.Unlock(t.Context(), browser, r.Collection)) // as it is
		v.asked()

		// The passphrase is not remembered.
		v.must(v.Lock(t.Context(), browser))
		v.user.Script(dismiss())
		v.want("dismissed", v.Unlock(t.Context(), browser, r.Collection), keyring.ErrDenied)
		v.asked(prompt.Passphrase)
		v.wantLocked(r.Collection, true)
		v.wantTold("changed " + r.Collection)
		v.want("none of that ID", v.Unlock(t.Context(), browser, "nosuchthing"), keyring.ErrNotFound)
	})
}

func TestUnlockStopsAfterWrongPassphrases(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.user.Script(answer("1"), answer("2"), answer("3"), answer("pw"))
		v.want("wrong thrice", v.Unlock(t.Context(), browser, r.Collection), keyring.ErrAuthFailed)
		v.asked(prompt.Passphrase, prompt.Passphrase, prompt.Passphrase)
		v.wantLocked(r.Collection, true)
		v.wantTold()
		past := v.gate.History()
		if last := past[len(past)-1]; !errors.Is(last.Err, keyring.ErrAuthFailed) || last.Subject != "keyring “Mine”" || last.Caller != browser {
			t.Errorf("history ends with %+v", last)
		}
	})
}

func TestUnlockWithNobodyToAsk(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.user.Script(keyringtest.Reply{Err: prompt.ErrUnavailable})
		v.want("unlock", v.Unlock(t.Context(), browser, r.Collection), keyring.ErrUnavailable)
		v.user.Script(keyringtest.Reply{Err: prompt.ErrUnavailable})
		v.want("first use", v.Unlock(t.Context(), browser, "login"), keyring.ErrUnavailable)
		if n := len(v.store.Collections()); n != 1 {
			t.Errorf("%d collections", n)
		}
	})
}

func TestRecoveryCodePassesForThePassphrase(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw")))
		v.user.Script(keyringtest.Reply{})
		_, code, err := v.AddSlot(t.Context(), browser, r.Collection, keyring.SlotRecovery, keyring.SlotOptions{})
		v.must(err)
		var text string
		code.Use(func(p []byte) { text = string(p) })
		code.Wipe()
		v.asked(prompt.Confirm)
		v.must(v.Lock(t.Context(), browser))
		v.user.Script(answer("nonsense"), answer(text))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.asked(prompt.Passphrase, prompt.Passphrase)
		v.wantSecret(r, "v")
	})
}

func TestManyUnlocksShareOneQuestion(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		release := make(chan struct{})
		v.user.Script(keyringtest.Reply{Passphrase: "pw", When: release})
		errs := make(chan error)
		for i := range 100 {
			c := browser
			c.Program = fmt.Sprintf("/usr/bin/p%d", i)
			go func() { errs <- v.Unlock(t.Context(), c, r.Collection) }()
		}
		synctest.Wait()
		if v.user.Open() != 1 {
			t.Errorf("%d questions are open", v.user.Open())
		}
		// A locked collection is no reason for others to wait.
		v.item("session", "s")
		close(release)
		for range 100 {
			v.must(<-errs)
		}
		v.asked(prompt.Passphrase)
		v.wantTold("item created session/1", "changed "+r.Collection)
	})
}

func TestOneProgramsNoIsNotAnothers(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		release := make(chan struct{})
		v.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed, When: release}, answer("pw"))
		same, other := make(chan error, 2), make(chan error, 1)
		mail := keyring.Caller{FrontEnd: "D-Bus", PID: 4, Program: "/usr/bin/mail"}
		go func() { same <- v.Unlock(t.Context(), browser, r.Collection) }()
		synctest.Wait()
		go func() { same <- v.Unlock(t.Context(), browser, r.Collection) }()
		go func() { other <- v.Unlock(t.Context(), mail, r.Collection) }()
		synctest.Wait()
		close(release)
		v.want("who asked", <-same, keyring.ErrDenied)
		v.want("the same program", <-same, keyring.ErrDenied)
		v.must(<-other)
		q := v.asked(prompt.Passphrase, prompt.Passphrase)
		if q[1].Caller != "/usr/bin/mail (4)" {
			t.Errorf("the second question names %q", q[1].Caller)
		}
	})
}

func TestQuestionGoesAwayWithTheLastAsker(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		never := make(chan struct{})
		v.user.Script(keyringtest.Reply{When: never})
		type asker struct {
			hangUp context.CancelFunc
			err    chan error
		}
		askers := make([]asker, 3)
		for i := range askers {
			ctx, cancel := context.WithCancel(t.Context())
			askers[i] = asker{cancel, make(chan error, 1)}
			go func() { askers[i].err <- v.Unlock(ctx, browser, r.Collection) }()
			synctest.Wait()
		}
		// The first is the one whose question it is.
		for i, a := range askers {
			if v.user.Open() != 1 {
				t.Errorf("with %d gone, %d questions are open", i, v.user.Open())
			}
			a.hangUp()
			synctest.Wait()
		}
		if v.user.Open() != 0 {
			t.Error("the question outlives its askers")
		}
		for _, a := range askers {
			v.want("who hung up", <-a.err, context.Canceled)
		}
		v.asked(prompt.Passphrase)

		// That was nobody's no, and the next is asked.
		v.user.Script(answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
	})
}

func TestHangUpBeforeTheAnswerLeavesItToOthers(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		release := make(chan struct{})
		v.user.Script(keyringtest.Reply{Passphrase: "pw", When: release})
		ctx, hangUp := context.WithCancel(t.Context())
		defer hangUp()
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- v.Unlock(ctx, browser, r.Collection) }()
		synctest.Wait()
		go func() { second <- v.Unlock(t.Context(), browser, r.Collection) }()
		synctest.Wait()
		hangUp()
		synctest.Wait()
		close(release)
		v.must(<-second)
		if err := <-first; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		v.asked(prompt.Passphrase)
	})
}

func TestTPMUnlocksSilently(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.addTPM(r.Collection, "")
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.wantSecret(r, "v")
		v.wantTold("changed " + r.Collection)
		past := v.gate.History()
		if last := past[len(past)-1]; last.Err != nil || last.Caller != browser {
			t.Errorf("history ends with %+v", last)
		}

		// After the screen was locked, too.
		v.must(v.LockForSleep(t.Context(), browser))
		v.wantLocked(r.Collection, true)
		for range 2 { // the second time it is unlocked
			if !v.UnlockQuietly(t.Context(), r.Collection) {
				t.Error("it is not unlocked quietly")
			}
		}
		v.wantSecret(r, "v")
		v.asked()

		if v.UnlockQuietly(t.Context(), "login") || v.UnlockQuietly(t.Context(), "nosuchthing") || !v.UnlockQuietly(t.Context(), "session") {
			t.Error("what is not there is unlocked, or the session's collection is not")
		}
	})
}

func TestLockByHandIsNotUndoneByTheTPM(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.addTPM(r.Collection, "")
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		for range 2 { // a permission stands for one unlock
			v.must(v.Lock(t.Context(), browser))
			v.must(v.LockForSleep(t.Context(), browser)) // does not soften it
			if v.UnlockQuietly(t.Context(), r.Collection) {
				t.Fatal("it was unlocked quietly")
			}
			v.user.Script(dismiss())
			v.want("dismissed", v.Unlock(t.Context(), browser, r.Collection), keyring.ErrDenied)
			v.wantLocked(r.Collection, true)
			v.user.Script(keyringtest.Reply{})
			v.must(v.Unlock(t.Context(), browser, r.Collection))
			v.wantSecret(r, "v")
			v.asked(prompt.Confirm, prompt.Confirm)
		}
		// Unlocked again, the screen's lock is no obstacle.
		v.must(v.LockForSleep(t.Context(), browser))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.asked()
	})
}

func TestWithoutTheTPMThePassphraseIsAskedFor(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.addTPM(r.Collection, "")
		v.tpm.Hook = func(context.Context) error { return keyring.ErrUnavailable }
		v.user.Script(answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.asked(prompt.Passphrase)

		v.must(v.Lock(t.Context(), browser))
		v.user.Script(keyringtest.Reply{}, answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.asked(prompt.Confirm, prompt.Passphrase)
	})
}

func TestPIN(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.tpm.Device = &keyringtest.FakeDevice{Max: 5}
		v.addTPM(r.Collection, "1234")
		if v.UnlockQuietly(t.Context(), r.Collection) {
			t.Fatal("unlocked without the PIN")
		}
		v.user.Script(answer("4321"), answer("1234"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		if q := v.asked(prompt.Passphrase, prompt.Passphrase); !q[0].PIN || q[0].Remember != 0 {
			t.Errorf("asked %+v", q[0])
		}
		if n := v.tpm.Device.Tried(); n != 2 {
			t.Errorf("%d values were spent on the TPM", n)
		}

		// The passphrase instead of the PIN.
		v.must(v.Lock(t.Context(), browser))
		v.user.Script(answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.asked(prompt.Passphrase)

		// A TPM that refuses leaves the passphrase.
		v.must(v.Lock(t.Context(), browser))
		v.tpm.Device.Spoil(5)
		v.user.Script(answer("1234"), answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		if q := v.asked(prompt.Passphrase, prompt.Passphrase); !q[0].PIN || q[1].PIN {
			t.Errorf("asked %+v", q)
		}
	})
}

func TestOnlyATPMThatIsGone(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		id, err := v.CreateWith(t.Context(), browser, "Mine", "", keyring.Credential{Kind: keyring.SlotTPM})
		v.must(err)
		v.must(v.LockForSleep(t.Context(), browser))
		v.tpm.Hook = func(context.Context) error { return errors.Join(keyring.ErrUnavailable, errors.New("gone")) }
		v.want("unlock", v.Unlock(t.Context(), browser, id), keyring.ErrUnavailable)
		v.must(v.Lock(t.Context(), browser))
		v.user.Script(keyringtest.Reply{})
		v.want("unlock", v.Unlock(t.Context(), browser, id), keyring.ErrUnavailable)
		v.asked(prompt.Confirm)
	})
}

func TestAutomaticFromNowOn(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.TPM = true
		r := v.made("")
		v.user.Script(keyringtest.Reply{Passphrase: "pw", Automatic: true})
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		if q := v.asked(prompt.Passphrase); !q[0].Automatic {
			t.Error("that was not offered")
		}
		slots, err := v.Slots(r.Collection)
		v.must(err)
		if len(slots) != 2 || slots[1].Kind != keyring.SlotTPM || slots[1].PIN {
			t.Errorf("slots: %+v", slots)
		}
		v.wantTold("changed "+r.Collection, "changed "+r.Collection)
		v.must(v.LockForSleep(t.Context(), browser))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.asked()
	})
}

func TestAutomaticThatFailsLeavesItUnlocked(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.TPM = true
		r := v.made("")
		v.tpm.Hook = func(context.Context) error { return keyring.ErrUnavailable }
		v.user.Script(keyringtest.Reply{Passphrase: "pw", Automatic: true})
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.wantSecret(r, "v")
		// Who does not tick it gets no slot, and is offered it again.
		v.must(v.Lock(t.Context(), browser))
		v.user.Script(answer("pw"))
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		if q := v.asked(prompt.Passphrase, prompt.Passphrase); !q[1].Automatic {
			t.Error("that was not offered")
		}
		if slots, _ := v.Slots(r.Collection); len(slots) != 1 {
			t.Errorf("slots: %+v", slots)
		}
	})
}

func TestUnlockedByOtherMeansTheQuestionGoesAway(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.user.Script(keyringtest.Reply{When: make(chan struct{})})
		done := make(chan error, 1)
		go func() { done <- v.Unlock(t.Context(), browser, r.Collection) }()
		synctest.Wait()
		v.want("wrong", v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "x")), keyring.ErrAuthFailed)
		if v.user.Open() != 1 {
			t.Error("a wrong value took the question away")
		}
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw")))
		v.must(<-done)
		v.asked(prompt.Passphrase)
		v.want("no such slot", v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotRecovery, "x")), keyring.ErrAuthFailed)
	})
}

// TestLockWhileUnlocking locks while the store works on the right passphrase:
// the later wish counts.
func TestLockWhileUnlocking(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.addTPM(r.Collection, "")
		for _, unlock := range []func() error{
			func() error {
				return v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw"))
			},
			func() error {
				if v.UnlockQuietly(t.Context(), r.Collection) {
					return nil
				}
				return keyring.ErrLocked
			},
		} {
			begun, release := make(chan struct{}), make(chan struct{})
			v.store.Hook = func(_ context.Context, op, _ string) error {
				if op == "Unlock" {
					close(begun)
					<-release
				}
				return nil
			}
			done := make(chan error, 1)
			go func() { done <- unlock() }()
			<-begun
			v.must(v.Lock(t.Context(), browser))
			close(release)
			v.want("unlock", <-done, keyring.ErrLocked)
			v.wantLocked(r.Collection, true)
			v.store.Hook = nil
			v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw")))
			v.must(v.LockForSleep(t.Context(), browser))
		}
	})
}

func TestPanickingStoreLeavesOthersToTryAgain(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		release := make(chan struct{})
		v.user.Script(keyringtest.Reply{Passphrase: "pw", When: release}, answer("pw"))
		tries := 0
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op == "Unlock" {
				if tries++; tries == 1 {
					panic("damaged")
				}
			}
			return nil
		}
		first, second := make(chan any, 1), make(chan error, 1)
		go func() {
			defer func() { first <- recover() }()
			_ = v.Unlock(t.Context(), browser, r.Collection)
		}()
		synctest.Wait()
		go func() { second <- v.Unlock(t.Context(), browser, r.Collection) }()
		synctest.Wait()
		close(release)
		if p := <-first; p != "damaged" {
			t.Errorf("the panic was %v", p)
		}
		v.must(<-second)
		v.asked(prompt.Passphrase, prompt.Passphrase)
	})
}

func TestLockDuringTheQuestionForPermission(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.addTPM(r.Collection, "")
		v.must(v.Lock(t.Context(), browser))
		release := make(chan struct{})
		v.user.Script(keyringtest.Reply{When: release})
		done := make(chan error, 1)
		go func() { done <- v.Unlock(t.Context(), browser, r.Collection) }()
		synctest.Wait()
		v.must(v.Lock(t.Context(), browser))
		close(release)
		v.want("unlock", <-done, keyring.ErrLocked)
		v.wantLocked(r.Collection, true)
		v.asked(prompt.Confirm)
		if v.UnlockQuietly(t.Context(), r.Collection) {
			t.Error("the second wish was forgotten")
		}
	})
}

// Who unlocks too late locks what another has unlocked meanwhile, and says so.
func TestLockingAgainIsTold(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		first := true
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op != "Unlock" || !first {
				return nil
			}
			first = false
			v.must(v.Lock(t.Context(), browser, r.Collection))
			return v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw"))
		}
		v.want("unlock", v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw")), keyring.ErrLocked)
		if info, err := v.Collection(r.Collection); err != nil || !info.Locked {
			t.Errorf("%+v, %v", info, err)
		}
		if told := v.told(); len(told) != 2 {
			t.Errorf("told %v", told)
		}
	})
}
