package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyringd/keyringd/keyring"
)

// config writes a config.toml and returns where settings are read from.
func config(t *testing.T, text string, args ...string) source {
	t.Helper()
	home := t.TempDir()
	dir := filepath.Join(home, "conf", "keyringd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"XDG_CONFIG_HOME": filepath.Join(home, "conf"), "XDG_RUNTIME_DIR": "/run/user/77"}
	return source{environment{Getenv: func(k string) string { return values[k] }, Home: home, UID: 77}, args}
}

// all sets every setting to something else than its default.
const all = `
tpm = "unix:/run/tpm"
key-dir = ["~/keys", "/srv/keys"]
runtime-dir = "/run/user/77/other"
data-dir = "~/data"
prompter = "pinentry:pinentry-qt"
bus = "none"
upstream = "~/agent"
allow-provider = ["/opt/*"]
remember = "90s"
replace = true
p11-kit-socket = true
landlock = false
confirm = ["work-*", "~/.ssh/id_*", "id:00FF00FF"]
notify = false
secret-service = false
confirm-forwarded = true
allow-remote-changes = true
pkcs11-strict-login = true
log-level = "debug"

[lock]
screen = ["forget", "keyrings"]
sleep = []
idle = ["keyrings"]
`

func TestEverySettingIsRead(t *testing.T) {
	c := config(t, all)
	got, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	home := c.env.Home
	want := settings{
		TPM: "unix:/run/tpm", KeyDirs: []string{home + "/keys", "/srv/keys"}, RuntimeDir: "/run/user/77/other", DataDir: home + "/data",
		Prompter: "pinentry:pinentry-qt", Bus: "none", Upstream: home + "/agent", AllowProviders: []string{"/opt/*"},
		Remember: 90 * time.Second, Replace: true, P11KitSocket: true,
		Confirm: confirmRules{{pattern: "work-*"}, {pattern: home + "/.ssh/id_*"}, {id: "00ff00ff"}}, PKCS11StrictLogin: true, ConfirmForwarded: true, RemoteChanges: true,
		LogLevel: slog.LevelDebug,
		Lock:     lockSettings{Screen: lockActions{Forget: true, Keyrings: true}, Idle: lockActions{Keyrings: true}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(confirmRule{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	// What this test forgets to set would stay as it is by default.
	old := reflect.ValueOf(c.env.defaults())
	for i := range old.NumField() {
		if reflect.DeepEqual(old.Field(i).Interface(), reflect.ValueOf(got).Field(i).Interface()) {
			t.Errorf("%s is not set by this test", old.Type().Field(i).Name)
		}
	}
}

// TestFlagsWin reads the same again and again, as each reload does.
func TestFlagsWin(t *testing.T) {
	c := config(t, all, "--bus", "session", "--key-dir", "/one", "--key-dir=/two", "--remember", "1h", "--replace=false")
	for range 2 {
		got, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if got.Bus != "session" || !slices.Equal(got.KeyDirs, []string{"/one", "/two"}) || got.Remember != time.Hour || got.Replace || got.TPM != "unix:/run/tpm" {
			t.Errorf("%+v", got)
		}
	}
}

func TestDefaults(t *testing.T) {
	got, err := config(t, "").read()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Lock.Screen.Forget || !got.Lock.Sleep.Forget || got.Lock.Screen.Keyrings || got.Lock.Idle.Forget {
		t.Errorf("lock: %+v", got.Lock)
	}
	if got.RuntimeDir != "/run/user/77/keyringd" || got.Remember != 10*time.Minute {
		t.Errorf("%+v", got)
	}
}

// TestMistakesNameTheirLine makes each kind of mistake in line 3.
func TestMistakesNameTheirLine(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`rember = "1m"`, `unknown setting "rember"`},
		{`tpm = 3`, "tpm"},
		{`tpm = "usb"`, `usb`},
		{`tpm = `, ""},
		{`key-dir = "/x"`, "key-dir"},
		{`key-dir = ["x"]`, "want an absolute path"},
		{`runtime-dir = ""`, "want an absolute path"},
		{`data-dir = "../x"`, "want an absolute path"},
		{`upstream = "agent"`, "want an absolute path"},
		{`prompter = "pinentry:"`, "want auto, ui"},
		{`prompter = "auto:x"`, "want auto, ui"},
		{`bus = "system"`, "want session, none"},
		{`allow-provider = ["*.so"]`, "absolute paths"},
		{`remember = "10"`, "want a time like 10m"},
		{`remember = 10`, "remember"},
		{`remember = "-1s"`, "in the past"},
		{`replace = "yes"`, "replace"},
		{`confirm = ["[a"]`, "want a pattern"},
		{`confirm = [""]`, "want a pattern"},
		{`confirm = ["id:12"]`, "8 digits"},
		{`confirm = ["id:0123456x"]`, "in hex"},
		{`log-level = "loud"`, "want debug"},
		{`lock.screen = ["forgot"]`, `want "forget"`},
		{`lock = {sleep = ["x"]}`, "lock.sleep"},
		{"[lock]\n\n  sleep = [\"forget\",\n \"x\"]", "lock.sleep"},
		{`lock.swipe = ["forget"]`, `unknown setting "lock.swipe"`},
	} {
		s := config(t, "# a comment\nnotify = true\n"+c.line+"\n")
		got, err := s.read()
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("config.toml:%d: ", 3+2*strings.Count(c.line, "\n\n"))) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want line 3 and %q", c.line, err, c.want)
		}
		if want := s.env.defaults(); got.Notify != want.Notify {
			t.Errorf("%s: half of the file is in force", c.line)
		}
	}
}

func TestConfigThatIsNoFile(t *testing.T) {
	c := config(t, "")
	path := c.env.configPath()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(); err != nil {
		t.Errorf("no file: %v", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a folder: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, maxConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a huge file: %v", err)
	}
}

// TestReload changes every setting at once: what can change does, and the rest
// is named.
func TestReload(t *testing.T) {
	c := config(t, "")
	before, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	after, err := config(t, all).read()
	if err != nil {
		t.Fatal(err)
	}
	now, waiting := before.live(after)
	for _, name := range restart {
		if !slices.Contains(waiting, name) {
			t.Errorf("%s changed and nobody is told", name)
		}
	}
	if len(waiting) != len(restart) {
		t.Errorf("told of %q", waiting)
	}
	if now.TPM != before.TPM || now.Bus != before.Bus || !slices.Equal(now.KeyDirs, before.KeyDirs) {
		t.Errorf("what wants a restart has changed: %+v", now)
	}
	if now.Remember != after.Remember || now.LogLevel != after.LogLevel || now.Lock != after.Lock || now.Notify || len(now.Confirm) != 3 {
		t.Errorf("what could change has not: %+v", now)
	}
	if _, waiting := after.live(after); len(waiting) > 0 {
		t.Errorf("nothing changed, but %q", waiting)
	}
	// A field that is gone, or misspelt, would be live without anybody's wish.
	for field := range restart {
		if _, ok := reflect.TypeFor[settings]().FieldByName(field); !ok {
			t.Errorf("there is no field %s", field)
		}
	}
}

// TestHangup reads a file again that has changed, then one with a mistake.
func TestHangup(t *testing.T) {
	c := config(t, "")
	first, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(c.env.configPath(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangup, applied := make(chan os.Signal), make(chan settings, 1)
	log := make(journal, 8)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.follow(ctx, hangup, first, slog.New(slog.NewTextHandler(log, nil)), func(s settings) { applied <- s })
	}()
	write("remember = \"1h\"\nbus = \"none\"\n")
	hangup <- os.Interrupt
	if line := <-log; !strings.Contains(line, "settings=[bus]") {
		t.Errorf("the journal says %q", line)
	}
	if got := <-applied; got.Remember != time.Hour || got.Bus != "session" {
		t.Errorf("applied %+v", got)
	}
	write("remember = \"1h\"\nbsu = \"none\"\n")
	hangup <- os.Interrupt
	if line := <-log; !strings.Contains(line, "config.toml:2: unknown setting") {
		t.Errorf("the journal says %q", line)
	}
	write("remember = \"2h\"\n")
	hangup <- os.Interrupt
	<-log
	if got := <-applied; got.Remember != 2*time.Hour {
		t.Errorf("applied %+v", got)
	}
	cancel()
	<-done
}

// A journal gives the lines that are logged to who reads it.
type journal chan string

func (j journal) Write(p []byte) (int, error) {
	j <- string(p)
	return len(p), nil
}

func TestConfirmRules(t *testing.T) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := keyring.NewKeyID(public)
	if err != nil {
		t.Fatal(err)
	}
	info := keyring.KeyInfo{ID: id, Label: "mia@work/laptop", Paths: []string{"/home/mia/.ssh/id_work"}}
	for text, want := range map[string]bool{
		"*": true, "mia@*/laptop": true, "mia@work": false, "mia*": true, "mia@work?laptop": true, "*top": true,
		"mia@[a-z]ork/*": true, "mia@work[/]laptop": true, "mia@work[^/]laptop": false, `mia@work\/laptop`: true, "*/work": false,
		"/home/mia/.ssh/id_*": true, "/home/mia/*": true, "/home/*/id_work": true, "/home/mia/?": false, "id_work": false,
		"id:" + id.String(): true, "id:" + id.String()[:9]: true, "id:" + strings.ToUpper(id.String()[:8]): true, "id:00000000": false,
	} {
		rule, err := parseConfirmRule(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := (confirmRules{rule}).wants(info); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
	if (confirmRules{}).wants(info) {
		t.Error("a key is confirmed that nobody named")
	}
}

// TestManualKnowsEverySetting compares keyringd.toml(5) with the names in the
// file, and keyringd(1) with the flags.
func TestManualKnowsEverySetting(t *testing.T) {
	page := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", "man", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), `\-`, "-")
	}
	var names []string
	var collect func(prefix string, of reflect.Type)
	collect = func(prefix string, of reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			if f.Type.Kind() == reflect.Struct {
				collect(f.Tag.Get("toml")+".", f.Type)
				continue
			}
			names = append(names, prefix+f.Tag.Get("toml"))
		}
	}
	collect("", reflect.TypeFor[configFile]())
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\.TP\n\.BR? ([a-z0-9.-]+) ?=?`).FindAllStringSubmatch(page("keyringd.toml.5"), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(names)
	slices.Sort(documented)
	if diff := cmp.Diff(names, documented); diff != "" {
		t.Errorf("settings (-) and keyringd.toml(5) (+):\n%s", diff)
	}

	var flags, shown []string
	for _, f := range regexp.MustCompile(`(?m)^  +(?:-., )?--([a-z0-9-]+)`).FindAllStringSubmatch(command().UsageString(), -1) {
		flags = append(flags, f[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^\.TP\n\.B[RI]? --([a-z0-9-]+)`).FindAllStringSubmatch(page("keyringd.1"), -1) {
		shown = append(shown, m[1])
	}
	// Cobra adds these two when the command runs.
	flags = append(flags, "help", "version")
	slices.Sort(flags)
	flags = slices.Compact(flags)
	slices.Sort(shown)
	if diff := cmp.Diff(flags, shown); diff != "" {
		t.Errorf("flags (-) and keyringd(1) (+):\n%s", diff)
	}
}

// FuzzConfig reads any text: settings that make sense, or an error that names
// the file.
func FuzzConfig(f *testing.F) {
	f.Add(all)
	f.Add("tpm = 3")
	f.Add("[lock]\nscreen = [\"forget\", 1]")
	f.Add("[[lock]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		const path = "/config.toml"
		s := environment{Getenv: func(string) string { return "" }, Home: "/home/mia"}.defaults()
		if err := s.parse(path, []byte(text), "/home/mia"); err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("an error that names no file: %v", err)
			}
			return
		}
		if _, err := s.check(); err != nil {
			t.Errorf("read, and refused afterwards: %v", err)
		}
	})
}

// TestNoProviderIsAllowed says so in config.toml, which must not mean those of
// the system.
func TestNoProviderIsAllowed(t *testing.T) {
	var s settings
	if err := s.parse("config.toml", []byte(`allow-provider = []`), "/home/mia"); err != nil {
		t.Fatal(err)
	}
	gate := keyring.NewGate(nil)
	log := slog.New(slog.DiscardHandler)
	d := &daemon{settings: s, log: log}
	if got := d.agent(keyring.NewKeys(gate), nil, nil).AllowProviders; got != "!*" {
		t.Errorf("the agent allows %q", got)
	}
}
