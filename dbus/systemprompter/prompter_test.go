package systemprompter

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/prompt"
)

// A desktop is a prompter that does as it is told, on the other side of the same
// protocol.
type desktop struct {
	conn *godbus.Conn

	mu sync.Mutex
	// answer says how a prompt is answered: "yes", "no", "done" (put away
	// without an answer) or "die".
	answer   string
	password string
	automatic,
	raw bool // the password is sent as it is

	asked chan asked
}

type asked struct {
	kind       string
	properties map[string]godbus.Variant
	exchange   string
	stopped    bool
}

func newDesktop(t *testing.T, bus *bustest.Bus) *desktop {
	t.Helper()
	conn := dial(t, bus)
	d := &desktop{conn: conn, answer: "yes", asked: make(chan asked, 10)}
	if err := conn.Export(d, place, iface); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(name, 0); err != nil {
		t.Fatal(err)
	}
	return d
}

func dial(t *testing.T, bus *bustest.Bus) *godbus.Conn {
	t.Helper()
	conn, err := godbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (d *desktop) back(to godbus.Sender, at godbus.ObjectPath, member string, args ...any) {
	d.conn.Object(string(to), at).Go(callback+"."+member, 0, nil, args...)
}

func (d *desktop) BeginPrompting(from godbus.Sender, at godbus.ObjectPath) *godbus.Error {
	d.back(from, at, "PromptReady", "", map[string]godbus.Variant{}, "")
	return nil
}

func (d *desktop) PerformPrompt(from godbus.Sender, at godbus.ObjectPath, kind string, p map[string]godbus.Variant, exchange string) *godbus.Error {
	d.asked <- asked{kind, p, exchange, false}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.answer {
	case "done":
		d.back(from, at, "PromptDone")
	case "die":
		d.conn.Close()
	case "wait":
	default:
		text := ""
		if d.answer == "yes" && kind == "password" {
			text = d.seal(exchange)
		}
		d.back(from, at, "PromptReady", d.answer, map[string]godbus.Variant{"choice-chosen": godbus.MakeVariant(d.automatic)}, text)
	}
	return nil
}

func (d *desktop) StopPrompting(from godbus.Sender, at godbus.ObjectPath) *godbus.Error {
	d.asked <- asked{stopped: true}
	d.back(from, at, "PromptDone")
	return nil
}

// will sets what the desktop does from now on.
func (d *desktop) will(set func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	set()
}

// seal is the other side of exchange.open, written down once more.
func (d *desktop) seal(offer string) string {
	if d.raw {
		return d.password
	}
	fields, err := parse(offer)
	if err != nil {
		return err.Error()
	}
	ours, err := newExchange()
	if err != nil {
		return err.Error()
	}
	key, err := ours.agree(fields["public"])
	if err != nil {
		return err.Error()
	}
	block, _ := aes.NewCipher(key)
	pad := aes.BlockSize - len(d.password)%aes.BlockSize
	padded := append([]byte(d.password), bytes.Repeat([]byte{byte(pad)}, pad)...)
	iv := make([]byte, aes.BlockSize)
	_, _ = rand.Read(iv)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	return fmt.Sprintf("%ssecret=%s\niv=%s\n", ours.offer(), base64.StdEncoding.EncodeToString(padded), base64.StdEncoding.EncodeToString(iv))
}

func ask(t *testing.T, p *Prompter, q prompt.Question) (string, prompt.Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := p.Prompt(ctx, q)
	text := ""
	a.Passphrase.Use(func(b []byte) { text = string(b) })
	a.Passphrase.Wipe()
	return text, a, err
}

func TestPassphrase(t *testing.T) {
	bus := bustest.Start(t)
	d := newDesktop(t, bus)
	p := &Prompter{Address: bus.Address}
	// Every length around a block, and every alignment of the shared number: a
	// short one is padded.
	for n := range 40 {
		want := strings.Repeat("ä", n)
		d.will(func() { d.password, d.automatic = want, n%2 == 1 })
		got, a, err := ask(t, p, prompt.Question{Kind: prompt.Passphrase, Subject: "Login", Reason: "read a secret", Caller: "mail (7)",
			Retry: true, Left: 2, Warning: "It will be locked.", Automatic: true})
		if err != nil || got != want || a.Automatic != (n%2 == 1) {
			t.Fatalf("%q, %v, %v; want %q", got, a.Automatic, err, want)
		}
		seen := <-d.asked
		text := func(name string) string { s, _ := seen.properties[name].Value().(string); return s }
		if seen.kind != "password" || text("message") != "Enter the passphrase for:" || text("choice-label") == "" ||
			text("description") != "Login\nWhat for: read a secret\nAsked by: mail (7)" ||
			text("warning") != "Wrong passphrase. 2 tries left. It will be locked." {
			t.Fatalf("shown: %q %v", seen.kind, seen.properties)
		}
		if !(<-d.asked).stopped {
			t.Fatal("the prompt was not ended")
		}
	}
}

func TestConfirm(t *testing.T) {
	bus := bustest.Start(t)
	d := newDesktop(t, bus)
	p := &Prompter{Address: bus.Address}
	for answer, want := range map[string]error{"yes": nil, "no": prompt.ErrDismissed, "done": prompt.ErrDismissed} {
		d.will(func() { d.answer = answer })
		if _, _, err := ask(t, p, prompt.Question{Kind: prompt.Confirm, Subject: "k"}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", answer, err, want)
		}
	}
	d.will(func() { d.answer = "die" })
	if _, _, err := ask(t, p, prompt.Question{Kind: prompt.Confirm, Subject: "k"}); !errors.Is(err, prompt.ErrUnavailable) {
		t.Errorf("a prompter that dies: %v", err)
	}
}

// TestNewPassphraseIsChosen asks for a new one, which the prompter repeats.
func TestNewPassphraseIsChosen(t *testing.T) {
	bus := bustest.Start(t)
	d := newDesktop(t, bus)
	d.will(func() { d.password = "new" })
	if got, _, err := ask(t, &Prompter{Address: bus.Address}, prompt.Question{Kind: prompt.NewPassphrase, Subject: "k"}); got != "new" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if chosen, _ := (<-d.asked).properties["password-new"].Value().(bool); !chosen {
		t.Error("it was not said that the password is new")
	}
}

// TestHangUp takes the prompt off the screen.
func TestHangUp(t *testing.T) {
	bus := bustest.Start(t)
	d := newDesktop(t, bus)
	d.will(func() { d.answer = "wait" })
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error)
	go func() {
		_, err := (&Prompter{Address: bus.Address}).Prompt(ctx, prompt.Question{Subject: "k"})
		end <- err
	}()
	<-d.asked
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !(<-d.asked).stopped {
		t.Error("the prompt stays")
	}
}

// TestNobodyThere is unavailable at once, so that another prompter is tried.
func TestNobodyThere(t *testing.T) {
	bus := bustest.Start(t)
	for _, p := range []*Prompter{{Address: bus.Address}, {Address: bus.Address, Start: true}, {Address: "unix:path=/nonexistent"}, {}} {
		if _, _, err := ask(t, p, prompt.Question{Subject: "k"}); !errors.Is(err, prompt.ErrUnavailable) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestStranger: another program cannot answer in the prompter's place.
func TestStranger(t *testing.T) {
	bus := bustest.Start(t)
	d := newDesktop(t, bus)
	d.will(func() { d.answer = "wait" })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end := make(chan error, 1)
	go func() {
		_, err := (&Prompter{Address: bus.Address}).Prompt(ctx, prompt.Question{Kind: prompt.Confirm, Subject: "k"})
		end <- err
	}()
	<-d.asked
	stranger := dial(t, bus)
	var names []string
	if err := stranger.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, n := range names {
		if !strings.HasPrefix(n, ":") || n == stranger.Names()[0] {
			continue
		}
		err := stranger.Object(n, ours).Call(callback+".PromptReady", 0, "yes", map[string]godbus.Variant{}, "").Err
		var e godbus.Error
		if errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.AccessDenied" {
			refused++
		}
	}
	select {
	case err := <-end:
		t.Errorf("answered: %v", err)
	default:
	}
	if refused != 1 {
		t.Errorf("refused %d times", refused)
	}
}

// TestBadAnswers are one error, and no passphrase.
func TestBadAnswers(t *testing.T) {
	x, err := newExchange()
	if err != nil {
		t.Fatal(err)
	}
	number := func(n *big.Int) string { return base64.StdEncoding.EncodeToString(n.Bytes()) }
	block := base64.StdEncoding.EncodeToString(make([]byte, 16))
	bad := []string{"", "[other]\n", protocol, protocol + "\nnonsense", protocol + "\npublic=%", strings.Repeat("x", maxExchange+1)}
	for _, public := range []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(prime(), big.NewInt(1)), prime(), new(big.Int).Lsh(prime(), 64)} {
		bad = append(bad, fmt.Sprintf("%s\npublic=%s\nsecret=%s\niv=%s\n", protocol, number(public), block, block))
	}
	good := number(big.NewInt(4))
	for _, rest := range []string{"", "secret=" + block, "iv=" + block, "secret=AAAA\niv=" + block, "secret=" + block + "\niv=AAAA", "secret=\niv=" + block} {
		bad = append(bad, fmt.Sprintf("%s\npublic=%s\n%s\n", protocol, good, rest))
	}
	for _, text := range bad {
		if got, err := x.open(text); !errors.Is(err, errExchange) || got.Len() != 0 {
			t.Errorf("%.80q: %v", text, err)
		}
	}
	bus := bustest.Start(t)
	d := newDesktop(t, bus)
	d.will(func() { d.raw, d.password = true, "garbage" })
	if _, _, err := ask(t, &Prompter{Address: bus.Address}, prompt.Question{Subject: "k"}); !errors.Is(err, prompt.ErrUnavailable) {
		t.Errorf("garbage: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	x, err := newExchange()
	if err != nil {
		f.Fatal(err)
	}
	d := &desktop{password: "secret"}
	f.Add(d.seal(x.offer()))
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := x.open(text); err == nil {
			if got.Len() > len(text) {
				t.Errorf("%d bytes out of %d", got.Len(), len(text))
			}
			got.Wipe()
		}
	})
}

// A reader is what assistive technology has on the bus.
type reader bool

func (r reader) Get(iface, property string) (godbus.Variant, *godbus.Error) {
	if iface != "org.a11y.Status" || property != "ScreenReaderEnabled" {
		return godbus.Variant{}, godbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", nil)
	}
	return godbus.MakeVariant(bool(r)), nil
}

func TestScreenReader(t *testing.T) {
	bus := bustest.Start(t)
	if ScreenReader(t.Context(), bus.Address) || ScreenReader(t.Context(), "unix:path=/nonexistent") {
		t.Error("nobody is there, and yet a screen reader is on")
	}
	for _, on := range []bool{true, false} {
		conn := dial(t, bus)
		if err := conn.Export(reader(on), "/org/a11y/bus", "org.freedesktop.DBus.Properties"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.RequestName("org.a11y.Bus", godbus.NameFlagReplaceExisting|godbus.NameFlagAllowReplacement); err != nil {
			t.Fatal(err)
		}
		if got := ScreenReader(t.Context(), bus.Address); got != on {
			t.Errorf("%v, want %v", got, on)
		}
	}
}
