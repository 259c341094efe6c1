package dbus

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// locked returns a vault whose login collection is locked, and a prompt that
// would unlock it.
func lockedVault(t *testing.T) (*vault, *user, path) {
	t.Helper()
	v := serveLogin(t)
	v.lock()
	u := v.user()
	_, at := u.unlock(loginPath)
	if at == nothing {
		t.Fatal("no prompt")
	}
	return v, u, at
}

// TestCompletedIsUnicastAfterTheReply: go-keyring listens once Prompt returned,
// and go-libsecret without a match rule.
func TestCompletedIsUnicastAfterTheReply(t *testing.T) {
	v, _, _ := lockedVault(t)
	// A program that notes what arrives in which order, and has no match rule.
	var mu sync.Mutex
	var order []string
	r := v.rawWith(func(f *wire.Frame) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case f.Type == godbus.TypeMethodReply:
			order = append(order, fmt.Sprint("reply ", f.ReplySerial))
		case f.Type == godbus.TypeSignal:
			order = append(order, fmt.Sprintf("%s %s to %s", f.Member, f.Signature, f.Destination))
		}
	})
	var at path
	r.take(t, secretsPath, serviceInterface, "Unlock", "ao", []any{[]path{loginPath}}, func(f *wire.Frame, body []byte) error {
		var unlocked []path
		return wire.Unmarshal(f.Order, body, &unlocked, &at)
	})
	// Somebody else listens to everything there is.
	other := v.user()
	other.listen()
	body, err := wire.Append(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	serial, err := r.tap.Send(wire.Header{Type: godbus.TypeMethodCall, Destination: secretsName, Path: at, Interface: promptInterface, Member: "Prompt", Signature: "s"}, body)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	await(t, "Completed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		got = slices.Clone(order)
		return slices.Contains(got, "Completed bv to "+r.Names()[0])
	})
	want := []string{fmt.Sprint("reply ", serial), "Completed bv to " + r.Names()[0]}
	if !slices.Equal(got[len(got)-2:], want) {
		t.Errorf("%q, want %q at the end", got, want)
	}
	// It is told of the unlocking, and has not heard of the prompt before.
	other.signal(func(s *godbus.Signal) bool {
		if s.Name == promptInterface+".Completed" {
			t.Error("Completed was sent to everybody")
		}
		return s.Name == propertiesInterface+".PropertiesChanged" && s.Path == loginPath
	})
}

// TestCompletedAlwaysComes: programs wait for it for ever.
func TestCompletedAlwaysComes(t *testing.T) {
	none := []path{}
	for name, c := range map[string]struct {
		answer    keyringtest.Reply
		dismissed bool
		result    []path
	}{
		"unlocked":      {keyringtest.Reply{Passphrase: goodPass}, false, []path{loginPath}},
		"dismissed":     {reply(prompt.ErrDismissed), true, none},
		"nobody to ask": {reply(prompt.ErrUnavailable), true, none},
		"wrong":         {keyringtest.Reply{Passphrase: "wrong"}, true, none},
		"broken":        {reply(errors.New("the window crashed")), true, none},
	} {
		t.Run(name, func(t *testing.T) {
			v, u, at := lockedVault(t)
			v.answer(c.answer)
			dismissed, result := u.prompted(at)
			if paths, ok := result.Value().([]path); !ok || dismissed != c.dismissed || !samePaths(paths, c.result...) {
				t.Errorf("%v, %v", dismissed, result)
			}
			if v.locked() != c.dismissed {
				t.Errorf("locked is %v", v.locked())
			}
			// It is over: a second call finds nothing, and nothing comes of it.
			u.fails(u.call(at, promptInterface+".Prompt", ""), noSuchObject)
		})
	}
	t.Run("a defect", func(t *testing.T) {
		v, u, at := lockedVault(t)
		v.answerWith(func(question) keyringtest.Reply { panic("the passphrase is xyzzy") })
		if dismissed, _ := u.prompted(at); !dismissed {
			t.Error("not dismissed")
		}
		u.ok(u.call(secretsPath, peerInterface+".Ping"))
	})
}

// TestCompletedComesOnce: whatever is called how often.
func TestCompletedComesOnce(t *testing.T) {
	v, u, at := lockedVault(t)
	answer := make(chan struct{})
	v.answer(keyringtest.Reply{Passphrase: goodPass, When: answer})
	u.ok(u.call(at, promptInterface+".Prompt", ""))
	for range 3 {
		u.fails(u.call(at, promptInterface+".Prompt", ""), secretService+"AlreadyExists")
	}
	if err := v.prompter.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		go u.call(at, promptInterface+".Dismiss")
	}
	if dismissed, result := u.completed(at); !dismissed || result.Signature().String() != "ao" {
		t.Errorf("%v, %v", dismissed, result)
	}
	if err := v.prompter.Await(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	close(answer)
	// One that was never shown is completed, too.
	_, next := u.unlock(loginPath)
	u.ok(u.call(next, promptInterface+".Dismiss"))
	if dismissed, _ := u.completed(next); !dismissed {
		t.Error("not dismissed")
	}
	u.ok(u.call(secretsPath, peerInterface+".Ping"))
	for len(u.signals) > 0 {
		if s := <-u.signals; s.Name == promptInterface+".Completed" {
			t.Errorf("again: %v", s)
		}
	}
	if !v.locked() {
		t.Error("dismissed, and unlocked all the same")
	}
}

// TestResultsAreOfTheTypeThatClientsExpect: secretstorage asserts them.
func TestResultsAreOfTheTypeThatClientsExpect(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	label := properties{collectionInterface + ".Label": godbus.MakeVariant("Work")}
	ask := func(kind string) (at path) {
		t.Helper()
		var made path
		switch kind {
		case "create":
			u.ok(u.call(secretsPath, serviceInterface+".CreateCollection", label, ""), &made, &at)
		case "delete":
			id, err := v.secrets.CreateCollection(t.Context(), keyring.Caller{}, "Old", "")
			if err != nil {
				t.Fatal(err)
			}
			u.ok(u.call(collectionPath(id), collectionInterface+".Delete"), &at)
		case "unlock":
			v.lock()
			_, at = u.unlock(loginPath)
		case "change":
			u.ok(u.call(secretsPath, serviceInterface+".ChangeLock", loginPath), &at)
		case "change, guiltily":
			u.ok(u.call(secretsPath, guiltRiddenInterface+".ChangeWithPrompt", loginPath), &at)
		}
		return at
	}
	good := keyringtest.Reply{Passphrase: goodPass}
	for kind, signature := range map[string]string{"create": "o", "delete": "s", "unlock": "ao", "change": "s", "change, guiltily": "s"} {
		for _, window := range []string{"", "x11:1c0003", "wayland:handle", "a window", "\U0001F511"} {
			at := ask(kind)
			u.ok(u.call(at, promptInterface+".Prompt", window))
			if dismissed, result := u.completed(at); dismissed || result.Signature().String() != signature {
				t.Errorf("%s in window %q: %v, %v", kind, window, dismissed, result)
			}
		}
		at := ask(kind)
		v.answer(reply(prompt.ErrDismissed))
		if dismissed, result := u.prompted(at); !dismissed || result.Signature().String() != signature {
			t.Errorf("%s, dismissed: %v, %v", kind, dismissed, result)
		}
		v.answer(good)
	}
	u.fails(u.call(sessionPathOf("session"), collectionInterface+".Delete"), "NotSupported")
}

// TestPromptsAreTheirOwners: nobody else sees them, and they end with their
// owner.
func TestPromptsAreTheirOwners(t *testing.T) {
	v, u, at := lockedVault(t)
	v.answer(keyringtest.Reply{When: make(chan struct{})})
	other := v.user()
	for _, method := range []string{promptInterface + ".Dismiss", introspectionInterface + ".Introspect", peerInterface + ".Ping"} {
		other.fails(other.call(at, method), noSuchObject)
	}
	other.fails(other.call(at, promptInterface+".Prompt", ""), noSuchObject)
	u.ok(u.call(at, introspectionInterface+".Introspect"), new(string))
	u.ok(u.call(at, promptInterface+".Prompt", ""))
	if err := v.prompter.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	u.Close()
	if err := v.prompter.Await(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestPromptsAreLimited: a program that makes them and calls none comes to an
// end, and others go on.
func TestPromptsAreLimited(t *testing.T) {
	v, u, at := lockedVault(t)
	for range maxPrompts - 1 {
		u.unlock(loginPath)
	}
	u.fails(u.call(secretsPath, serviceInterface+".Unlock", []path{loginPath}), "LimitsExceeded")
	other := v.user()
	_, theirs := other.unlock(loginPath)
	if dismissed, _ := other.prompted(theirs); dismissed {
		t.Error("another program's prompt is dismissed")
	}
	u.ok(u.call(at, promptInterface+".Dismiss"))
	u.completed(at)
	v.lock()
	u.unlock(loginPath)
}

// TestQuestionsBlockNobody: while one program's user thinks, others work.
func TestQuestionsBlockNobody(t *testing.T) {
	v := serveLogin(t)
	id, err := v.secrets.CreateCollection(t.Context(), keyring.Caller{}, "Work", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.secrets.Lock(t.Context(), keyring.Caller{}, id); err != nil {
		t.Fatal(err)
	}
	answer := make(chan struct{})
	v.answer(keyringtest.Reply{Passphrase: goodPass, When: answer})
	waiting, working := v.user(), v.user()
	_, at := waiting.unlock(collectionPath(id))
	waiting.ok(waiting.call(at, promptInterface+".Prompt", ""))
	if err := v.prompter.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	item := working.create(defaultPath, "x", nil, false)
	working.secret(item)
	waiting.search(map[string]string{})
	t.Logf("others took %v", time.Since(begin))
	close(answer)
	if dismissed, _ := waiting.completed(at); dismissed {
		t.Error("dismissed")
	}
}
