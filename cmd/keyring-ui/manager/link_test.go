package manager

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/dbus"
	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// serve starts a daemon's D-Bus side on a bus, and returns how to end it.
func serve(t *testing.T, bus *bustest.Bus, prompter prompt.Prompter) (stop func()) {
	t.Helper()
	gate := keyring.NewGate(prompter)
	keys := keyring.NewKeys(gate)
	server := dbus.New(keys, gate, slog.New(slog.DiscardHandler))
	server.Secrets = keyring.NewSecrets(gate, keyringtest.NewStore())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, bus.Address) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("Serve does not return")
		}
	}
	t.Cleanup(stop)
	return stop
}

// awaits reads changes until one is what.
func awaits(t *testing.T, changes <-chan client.Change, what client.Change) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-changes:
			if got == what {
				return
			}
		case <-timeout:
			t.Fatalf("change %d was not told", what)
		}
	}
}

// A daemon that comes, does what it is told, goes and comes back.
func TestLink(t *testing.T) {
	bus := bustest.Start(t)
	prompter := &keyringtest.FakePrompter{}
	prompter.Default = func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "correct horse"} }
	l := NewLink(bus.Address)
	defer l.Close()
	changes := make(chan client.Change, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		l.Watch(ctx, func(what client.Change, _ string) { changes <- what })
	}()
	defer func() { cancel(); <-watched }()
	awaits(t, changes, client.DaemonEnded)
	if _, err := l.Keys(ctx); !errors.Is(err, client.ErrNoDaemon) {
		t.Errorf("nobody is there: %v", err)
	}
	stop := serve(t, bus, prompter)
	awaits(t, changes, client.DaemonBegan)

	id, err := l.CreateKeyring(ctx, "Work")
	if err != nil {
		t.Fatal(err)
	}
	awaits(t, changes, client.KeyringsChanged)
	keyrings, err := l.Keyrings(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var work client.Keyring
	for _, k := range keyrings {
		if k.ID == id {
			work = k
		}
	}
	if work.Label != "Work" {
		t.Fatalf("%+v", keyrings)
	}
	value := secret.Copy([]byte("pa55"))
	defer value.Wipe()
	item, err := l.CreateItem(ctx, work.Path, "Mail", map[string]string{"user": "mia"}, value)
	if err != nil {
		t.Fatal(err)
	}
	awaits(t, changes, client.ItemsChanged)
	label, other := "Post", secret.Copy([]byte("other"))
	defer other.Wipe()
	if err := l.ChangeItem(ctx, item, ItemChange{Label: &label, Attributes: map[string]string{"a": "b"}, Secret: &other}); err != nil {
		t.Error(err)
	}
	items, err := l.Items(ctx, work.Path)
	if err != nil || len(items) != 1 || items[0].Label != "Post" || items[0].Attributes["a"] != "b" {
		t.Errorf("%+v, %v", items, err)
	}
	got, kind, err := l.Secret(ctx, item)
	if err != nil || kind != "text/plain" || plain(got) != "other" {
		t.Errorf("%q, %q, %v", plain(got), kind, err)
	}
	got.Wipe()
	if err := l.LockKeyring(ctx, id); err != nil {
		t.Error(err)
	}
	if _, _, err := l.Secret(ctx, item); err == nil {
		t.Error("a locked secret")
	}
	if err := l.UnlockKeyring(ctx, id); err != nil {
		t.Error(err)
	}
	if _, code, err := l.AddRecoverySlot(ctx, id); err != nil || len(code) < 20 {
		t.Errorf("%q, %v", code, err)
	}
	if slots, err := l.Slots(ctx, id); err != nil || len(slots) != 2 {
		t.Errorf("%+v, %v", slots, err)
	}
	if err := l.DeleteItem(ctx, item); err != nil {
		t.Error(err)
	}
	if err := l.DeleteKeyring(ctx, work.Path); err != nil {
		t.Error(err)
	}
	if err := l.Lock(ctx); err != nil {
		t.Error(err)
	}
	stop()
	awaits(t, changes, client.DaemonEnded)
	serve(t, bus, prompter)
	awaits(t, changes, client.DaemonBegan)
	if _, err := l.Status(ctx); err != nil {
		t.Error(err)
	}
}

// Who gives up takes the question off the screen.
func TestLinkGivesUp(t *testing.T) {
	bus := bustest.Start(t)
	asked, gone := make(chan struct{}), make(chan struct{})
	serve(t, bus, prompterFunc(func(ctx context.Context, _ prompt.Question) (prompt.Answer, error) {
		close(asked)
		<-ctx.Done()
		close(gone)
		return prompt.Answer{}, ctx.Err()
	}))
	l := NewLink(bus.Address)
	defer l.Close()
	changes := make(chan client.Change, 100)
	watching, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Watch(watching, func(what client.Change, _ string) { changes <- what })
	}()
	defer func() { end(); <-done }()
	awaits(t, changes, client.DaemonBegan)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := l.CreateKeyring(ctx, "Work")
		failed <- err
	}()
	<-asked
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("the question is still on the screen")
	}
}

type prompterFunc func(context.Context, prompt.Question) (prompt.Answer, error)

func (f prompterFunc) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	return f(ctx, q)
}

// A daemon that reads its settings again is told to; one that would end of that
// is not.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	f := Files{Config: filepath.Join(dir, "keyringd", "config.toml"), Autostart: filepath.Join(dir, "autostart", "x.desktop"), Program: `/opt/a "b" $c%/keyring-ui`}
	told := filepath.Join(dir, "told")
	bustest.Need(t, "setsid")
	sh := exec.Command("setsid", "sh", "-c", `trap 'echo told > "$0"; exit 0' HUP; echo ready; while :; do read -r line || exit 1; done`, told)
	in, err := sh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sh.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = sh.Wait() }()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if now, err := f.Write(sh.Process.Pid, config.Change{Name: config.Prompter, Value: "ui"}); now || err != nil {
		t.Errorf("what waits for a restart: %t, %v", now, err)
	}
	if now, err := f.Write(sh.Process.Pid, config.Change{Name: config.Remember, Value: "5m"}); !now || err != nil {
		t.Errorf("%t, %v", now, err)
	}
	// The shell reads on when it was told.
	_, _ = in.Write([]byte("\n"))
	_ = sh.Wait()
	if b, err := os.ReadFile(told); err != nil || string(b) != "told\n" {
		t.Errorf("%q, %v", b, err)
	}
	if !onTerminal(1 << 30) {
		t.Error("a process that is not there is told")
	}
	if v, err := f.Read(); err != nil || v.Remember != 5*time.Minute || v.Prompter != "ui" {
		t.Errorf("%+v, %v", v, err)
	}

	if f.Tray() {
		t.Error("an icon that nobody wanted")
	}
	if err := f.SetTray(true); err != nil || !f.Tray() {
		t.Error(err)
	}
	b, err := os.ReadFile(f.Autostart)
	if err != nil || !strings.Contains(string(b), `Exec="/opt/a \\"b\\" \\$c%%/keyring-ui" manager --tray`+"\n") {
		t.Errorf("%s, %v", b, err)
	}
	for range 2 {
		if err := f.SetTray(false); err != nil || f.Tray() {
			t.Error(err)
		}
	}
}
