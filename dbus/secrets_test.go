package dbus

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

const (
	loginPath   = collectionsPath + "/login"
	defaultPath = aliasesPath + "/default"
	goodPass    = "correct horse"
)

type path = godbus.ObjectPath

// A vault is a house with collections in it.
type vault struct {
	*house
	secrets *keyring.Secrets
	store   *keyringtest.Store
	listed  atomic.Int64 // how often items were listed or searched
	broken  atomic.Bool  // searching fails
}

// serveStore serves an empty store.
func serveStore(t *testing.T) *vault {
	t.Helper()
	v := &vault{store: keyringtest.NewStore()}
	v.store.Hook = func(_ context.Context, op, _ string) error {
		if op == "Items" || op == "Search" {
			v.listed.Add(1)
		}
		if op == "Search" && v.broken.Load() {
			return keyring.ErrUnavailable
		}
		return nil
	}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.NewSecrets(s.gate, v.store)
		s.Secrets = v.secrets
	})
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	v.awaitOwner(secretsName)
	return v
}

// serveLogin serves a store with an unlocked login collection.
func serveLogin(t *testing.T) *vault {
	t.Helper()
	v := serveStore(t)
	v.login()
	return v
}

func (v *vault) login() {
	v.Helper()
	pass := secret.Copy([]byte(goodPass))
	defer pass.Wipe()
	if err := v.secrets.Login(v.Context(), keyring.Caller{}, pass); err != nil {
		v.Fatal(err)
	}
}

// answer answers every question from now on.
func (v *vault) answer(r keyringtest.Reply) {
	v.answerWith(func(question) keyringtest.Reply { return r })
}

func (v *vault) answerWith(f func(question) keyringtest.Reply) {
	v.prompter.Script() // for its lock: questions were asked before, and will be
	v.prompter.Default = f
	v.prompter.Script()
}

// lock locks all, as the user does.
func (v *vault) lock() {
	v.Helper()
	if err := v.secrets.Lock(v.Context(), keyring.Caller{}); err != nil {
		v.Fatal(err)
	}
}

func (v *vault) locked() bool {
	v.Helper()
	info, err := v.secrets.Collection(keyring.LoginCollection)
	if err != nil {
		v.Fatal(err)
	}
	return info.Locked
}

// add puts an item into the login collection.
func (v *vault) add(value string, attributes map[string]string) keyring.ItemRef {
	v.Helper()
	s := secret.Copy([]byte(value))
	defer s.Wipe()
	r, err := v.secrets.CreateItem(v.Context(), keyring.Caller{}, keyring.LoginCollection, keyring.NewItem{
		Label: "item " + value, Attributes: attributes, ContentType: "text/plain", Secret: s}, false)
	if err != nil {
		v.Fatal(err)
	}
	return r
}

// awaitOwner waits until a name is owned.
func (h *house) awaitOwner(name string) {
	h.Helper()
	c := h.client()
	await(h, name, func() bool {
		var has bool
		err := c.BusObject().Call(driver+".NameHasOwner", 0, name).Store(&has)
		return err == nil && has
	})
}

// A user is a program that uses the Secret Service with a plain session.
type user struct {
	*godbus.Conn
	t       testing.TB
	session path
	signals chan *godbus.Signal
}

func (h *house) user() *user {
	h.Helper()
	u := &user{Conn: h.client(), t: h, signals: make(chan *godbus.Signal, 1000)}
	u.Signal(u.signals)
	var out godbus.Variant
	u.ok(u.call(secretsPath, serviceInterface+".OpenSession", "plain", godbus.MakeVariant("")), &out, &u.session)
	return u
}

func (u *user) call(at path, method string, args ...any) *godbus.Call {
	return u.Object(secretsName, at).CallWithContext(u.t.Context(), method, 0, args...)
}

// ok fails the test unless the call went well.
func (u *user) ok(c *godbus.Call, into ...any) {
	u.t.Helper()
	if err := c.Store(into...); err != nil {
		u.t.Fatalf("%s at %s: %v", c.Method, c.Path, err)
	}
}

// fails fails the test unless the call ends with an error of that name.
func (u *user) fails(c *godbus.Call, name string) {
	u.t.Helper()
	if !strings.Contains(name, ".") {
		name = "org.freedesktop.DBus.Error." + name
	}
	if got := errorName(c.Err); got != name {
		u.t.Errorf("%s at %s: %s (%v), want %s", c.Method, c.Path, got, c.Err, name)
	}
}

const (
	noSuchObject = secretService + "NoSuchObject"
	isLocked     = secretService + "IsLocked"
	noSession    = secretService + "NoSession"
)

func (u *user) get(at path, property string) any {
	u.t.Helper()
	v, err := u.Object(secretsName, at).GetProperty(property)
	if err != nil {
		u.t.Fatalf("%s of %s: %v", property, at, err)
	}
	return v.Value()
}

func (u *user) passed(value string) passed {
	return passed{u.session, []byte{}, []byte(value), "text/plain"}
}

func itemProps(label string, attributes map[string]string) map[string]godbus.Variant {
	return map[string]godbus.Variant{
		itemInterface + ".Label":      godbus.MakeVariant(label),
		itemInterface + ".Attributes": godbus.MakeVariant(attributes),
	}
}

// create makes an item.
func (u *user) create(in path, value string, attributes map[string]string, replace bool) path {
	u.t.Helper()
	var made, prompt path
	u.ok(u.call(in, collectionInterface+".CreateItem", itemProps("item "+value, attributes), u.passed(value), replace), &made, &prompt)
	if prompt != nothing || made == nothing {
		u.t.Fatalf("made %s, prompt %s", made, prompt)
	}
	return made
}

func (u *user) secret(at path) passed {
	u.t.Helper()
	var p passed
	u.ok(u.call(at, itemInterface+".GetSecret", u.session), &p)
	return p
}

func (u *user) search(attributes map[string]string) (unlocked, locked []path) {
	u.t.Helper()
	u.ok(u.call(secretsPath, serviceInterface+".SearchItems", attributes), &unlocked, &locked)
	return unlocked, locked
}

func (u *user) unlock(objects ...path) (unlocked []path, prompt path) {
	u.t.Helper()
	u.ok(u.call(secretsPath, serviceInterface+".Unlock", objects), &unlocked, &prompt)
	return unlocked, prompt
}

// prompted calls a prompt and waits for what comes of it.
func (u *user) prompted(at path) (dismissed bool, result godbus.Variant) {
	u.t.Helper()
	u.ok(u.call(at, promptInterface+".Prompt", "x11:7"))
	return u.completed(at)
}

func (u *user) completed(at path) (dismissed bool, result godbus.Variant) {
	u.t.Helper()
	s := u.signal(func(s *godbus.Signal) bool { return s.Path == at && s.Name == promptInterface+".Completed" })
	return s.Body[0].(bool), s.Body[1].(godbus.Variant)
}

// signal waits for a signal, and drops those before it.
func (u *user) signal(is func(*godbus.Signal) bool) *godbus.Signal {
	u.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case s := <-u.signals:
			if is(s) {
				return s
			}
		case <-timeout:
			u.t.Fatal("no signal within a minute")
		}
	}
}

// changed waits until a property was told of, with a value that will do.
func (u *user) changed(at path, property string, is func(value any) bool) {
	u.t.Helper()
	u.signal(func(s *godbus.Signal) bool {
		if s.Path != at || s.Name != propertiesInterface+".PropertiesChanged" {
			return false
		}
		v, ok := s.Body[1].(map[string]godbus.Variant)[property]
		return ok && is(v.Value())
	})
}

// listen asks for every signal of the service.
func (u *user) listen() {
	u.t.Helper()
	if err := u.AddMatchSignal(godbus.WithMatchSender(secretsName)); err != nil {
		u.t.Fatal(err)
	}
}

func samePaths(got []path, want ...path) bool {
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	return slices.Equal(got, want)
}

// run runs a program on the vault's bus and returns what it printed.
func (v *vault) run(stdin string, program ...string) (string, error) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), time.Minute)
	defer cancel()
	home := v.TempDir()
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "DBUS_SESSION_BUS_ADDRESS="+v.bus.Address, "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home,
		"PYTHONDONTWRITEBYTECODE=1", "G_DEBUG=fatal-criticals")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func reply(err error) keyringtest.Reply { return keyringtest.Reply{Err: err} }
