package moving_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/moving"
	"github.com/keyringd/keyringd/prompt"
)

const folder = "../store/foreign/testdata/folder"

var ctl = keyring.Caller{FrontEnd: "D-Bus", PID: 5, Program: "/usr/bin/keyringctl", Process: "keyringctl (5)"}

// A house is a user's secrets with a mover.
type house struct {
	*moving.Mover
	t    *testing.T
	user *keyringtest.FakePrompter
	dir  string
}

// newHouse makes secrets whose user knows the passphrase "sesame" and chooses
// "chosen".
func newHouse(t *testing.T) *house {
	h := &house{t: t, user: &keyringtest.FakePrompter{}, dir: t.TempDir()}
	h.user.Default = func(q prompt.Question) keyringtest.Reply {
		switch {
		case q.Kind == prompt.NewPassphrase, strings.HasPrefix(q.Subject, "keyring “"), strings.HasPrefix(q.Subject, "the archive"):
			return keyringtest.Reply{Passphrase: "chosen"}
		}
		return keyringtest.Reply{Passphrase: "sesame"}
	}
	gate := keyring.NewGate(h.user)
	h.Mover = &moving.Mover{Gate: gate, Secrets: keyring.NewSecrets(gate, keyringtest.NewStore())}
	return h
}

func (h *house) take(paths ...string) map[string]keyring.Moved {
	h.t.Helper()
	return h.import_(keyring.ImportSecretsRequest{Paths: paths})
}

func (h *house) import_(r keyring.ImportSecretsRequest) map[string]keyring.Moved {
	h.t.Helper()
	r.Caller = ctl
	all, err := h.Import(h.t.Context(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	byLabel := map[string]keyring.Moved{}
	for _, m := range all {
		byLabel[m.Label] = m
	}
	if len(byLabel) != len(all) {
		h.t.Fatalf("%+v", all)
	}
	return byLabel
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// secrets is what is in a collection: secrets by their items' labels.
func (h *house) secrets(id string) map[string]string {
	h.t.Helper()
	refs, err := h.Secrets.Items(id)
	h.must(err)
	found := map[string]string{}
	for _, ref := range refs {
		info, err := h.Secrets.Item(ref)
		h.must(err)
		value, _, err := h.Secrets.Secret(h.t.Context(), ctl, ref)
		h.must(err)
		value.Use(func(b []byte) { found[info.Label] += string(b) })
		value.Wipe()
	}
	return found
}

func (h *house) add(id, label, value string) keyring.ItemRef {
	h.t.Helper()
	b := secret.Copy([]byte(value))
	defer b.Wipe()
	ref, err := h.Secrets.CreateItem(h.t.Context(), ctl, id, keyring.NewItem{
		Label: label, Attributes: map[string]string{"a": label, "xdg:schema": "s"}, ContentType: "text/plain; charset=utf-8", Secret: b,
		Created: time.Unix(1, 0), Modified: time.Unix(2, 0),
	}, false)
	h.must(err)
	return ref
}

// snapshot is all that is in a folder.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		info, _ := d.Info()
		all.WriteString(path + info.ModTime().String() + string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestImportGnomeKeyring(t *testing.T) {
	h := newHouse(t)
	before := snapshot(t, folder)
	path, err := filepath.Abs(folder)
	h.must(err)
	got := h.take(path)
	if snapshot(t, folder) != before {
		t.Error("an original was touched")
	}
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for label, m := range got {
		if m.Err != nil || m.Items != 1 || m.There != 0 || m.Collection == "" {
			t.Errorf("%s: %+v", label, m)
		}
	}
	login, other := got["Login"], got["Other"]
	if login.Collection != keyring.LoginCollection || other.Collection == keyring.LoginCollection {
		t.Errorf("login into %s, Other into %s", login.Collection, other.Collection)
	}
	if s := h.secrets(other.Collection); len(s) != 1 {
		t.Errorf("%v", s)
	}
	for _, v := range h.secrets(other.Collection) {
		if v != "deep" {
			t.Errorf("the secret is %q", v)
		}
	}

	// Twice does no harm.
	for label, m := range h.take(path) {
		if m.Err != nil || m.Items != 0 || m.There != 1 {
			t.Errorf("once more, %s: %+v", label, m)
		}
	}
}

// TestImportReplacesNothing puts what differs beside what is there.
func TestImportReplacesNothing(t *testing.T) {
	h := newHouse(t)
	path, err := filepath.Abs(filepath.Join(folder, "Blank.keyring"))
	h.must(err)
	got := h.take(path)["Blank"]
	refs, err := h.Secrets.Items(got.Collection)
	h.must(err)
	changed := secret.Copy([]byte("newer"))
	defer changed.Wipe()
	h.must(h.Secrets.ChangeItem(t.Context(), ctl, refs[0], keyring.ItemChange{Secret: &changed}))
	again := h.take(path)["Blank"]
	if again.Items != 1 || len(again.Notes) == 0 || again.Err != nil {
		t.Errorf("%+v", again)
	}
	for _, v := range h.secrets(got.Collection) {
		if v != "newershallow" {
			t.Errorf("the secrets are %q", v)
		}
	}
}

func TestImportInto(t *testing.T) {
	h := newHouse(t)
	path, err := filepath.Abs(folder)
	h.must(err)
	got := h.import_(keyring.ImportSecretsRequest{Paths: []string{path}, Into: "default"})
	for label, m := range got {
		if m.Err != nil || m.Collection != keyring.LoginCollection {
			t.Errorf("%s: %+v", label, m)
		}
	}
	if s := h.secrets("login"); len(s) != 3 {
		t.Errorf("%v", s)
	}
	for _, m := range h.import_(keyring.ImportSecretsRequest{Paths: []string{path}, Into: "nowhere"}) {
		if !errors.Is(m.Err, keyring.ErrNotFound) {
			t.Errorf("%+v", m)
		}
	}
}

// TestImportRefused: one bad file, one wrong password, one refusal do not
// disturb the others.
func TestImportRefused(t *testing.T) {
	h := newHouse(t)
	known := h.user.Default
	h.user.Default = func(q prompt.Question) keyringtest.Reply {
		if q.Subject == "the keyring login" {
			return keyringtest.Reply{Err: prompt.ErrDismissed}
		}
		return known(q)
	}
	junk := filepath.Join(h.dir, "junk.keyring")
	h.must(os.WriteFile(junk, []byte("junk"), 0o600))
	path, err := filepath.Abs(folder)
	h.must(err)
	got := h.take(path, junk, filepath.Join(h.dir, "missing"))
	for label, want := range map[string]error{"login": keyring.ErrDenied, "junk": keyring.ErrUnsupported, "missing": keyring.ErrNotFound, "Blank": nil} {
		m, ok := got[label]
		if !ok || !errors.Is(m.Err, want) || want == nil && m.Err != nil {
			t.Errorf("%s: %+v, want %v", label, m, want)
		}
	}
}

func TestExportAndBack(t *testing.T) {
	for name, plain := range map[string]bool{"encrypted": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.must(h.Secrets.Unlock(t.Context(), ctl, "login"))
			h.add("login", "one", "first secret")
			h.add("login", "two", "second\x00secret\n")
			id, err := h.Secrets.CreateCollection(t.Context(), ctl, "Work", "")
			h.must(err)
			h.add(id, "three", "")
			h.add(keyring.SessionCollection, "passing", "not on disk")
			h.must(h.Secrets.Lock(t.Context(), ctl))

			path := filepath.Join(h.dir, "out")
			all, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: path, Plain: plain})
			h.must(err)
			if len(all) != 2 || all[0].Items+all[1].Items != 3 {
				t.Errorf("%+v", all)
			}
			data, err := os.ReadFile(path)
			h.must(err)
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", st.Mode(), err)
			}
			if bytes.Contains(data, []byte("first secret")) != plain || bytes.Contains(data, []byte("not on disk")) {
				t.Errorf("what is in the file: %.300q", data)
			}
			asked := h.user.Questions()
			if last := asked[len(asked)-1]; !plain && last.Kind != prompt.NewPassphrase {
				t.Errorf("asked %+v", last)
			}
			permitted := false
			for _, q := range asked {
				permitted = permitted || q.Kind == prompt.Confirm && q.Warning != ""
			}
			if permitted != plain {
				t.Errorf("asked for permission: %v", permitted)
			}
			if _, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: path, Plain: plain}); !errors.Is(err, fs.ErrExist) {
				t.Errorf("over a file that is there: %v", err)
			}

			to := newHouse(t)
			got := to.import_(keyring.ImportSecretsRequest{Paths: []string{path}, Archive: true})
			if len(got) != 2 || got["Login"].Collection != "login" || got["Work"].Err != nil {
				t.Fatalf("%+v", got)
			}
			if s := to.secrets("login"); len(s) != 2 || s["one"] != "first secret" || s["two"] != "second\x00secret\n" {
				t.Errorf("%q", s)
			}
			refs, err := to.Secrets.SearchIn("login", map[string]string{"a": "one"})
			h.must(err)
			info, err := to.Secrets.Item(refs[0])
			if err != nil || info.ContentType != "text/plain; charset=utf-8" || !info.Created.Equal(time.Unix(1, 0)) || !info.Modified.Equal(time.Unix(2, 0)) || info.Attributes["xdg:schema"] != "s" {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

// TestImportKeepsTheOrder: programs take the first item that a search tells of,
// which is the one that was written last, wherever that was.
func TestImportKeepsTheOrder(t *testing.T) {
	h := newHouse(t)
	h.must(h.Secrets.Unlock(t.Context(), ctl, "login"))
	b := secret.Copy([]byte("v"))
	defer b.Wipe()
	for _, at := range []int64{2, 4, 1, 3} {
		_, err := h.Secrets.CreateItem(t.Context(), ctl, "login", keyring.NewItem{
			Label: fmt.Sprint(at), Attributes: map[string]string{"a": "b"}, Secret: b, Created: time.Unix(1, 0), Modified: time.Unix(at, 0),
		}, false)
		h.must(err)
	}
	path := filepath.Join(h.dir, "out")
	_, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: path})
	h.must(err)

	to := newHouse(t)
	to.import_(keyring.ImportSecretsRequest{Paths: []string{path}, Archive: true})
	refs, err := to.Secrets.SearchIn("login", map[string]string{"a": "b"})
	h.must(err)
	var labels string
	for _, ref := range refs {
		info, err := to.Secrets.Item(ref)
		h.must(err)
		labels += info.Label
	}
	if labels != "4321" {
		t.Errorf("found in the order %s", labels)
	}
}

func TestExportRefused(t *testing.T) {
	h := newHouse(t)
	if _, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: filepath.Join(h.dir, "out")}); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("nothing to export: %v", err)
	}
	h.must(h.Secrets.Unlock(t.Context(), ctl, "login"))
	h.add("login", "one", "secret")
	h.user.Default = func(q prompt.Question) keyringtest.Reply { return keyringtest.Reply{Err: prompt.ErrDismissed} }
	for _, plain := range []bool{false, true} {
		if _, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: filepath.Join(h.dir, "out"), Plain: plain}); !errors.Is(err, keyring.ErrDenied) {
			t.Errorf("refused: %v", err)
		}
	}
	if entries, err := os.ReadDir(h.dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	h = newHouse(t)
	h.must(h.Secrets.Unlock(t.Context(), ctl, "login"))
	h.add("login", "one", "secret")
	if _, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: filepath.Join(h.dir, "no", "such", "folder")}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("nowhere to write: %v", err)
	}
	if entries, err := os.ReadDir(h.dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestArchiveNeedsItsPassphrase asks again after a wrong one, and gives up.
func TestArchiveNeedsItsPassphrase(t *testing.T) {
	h := newHouse(t)
	h.must(h.Secrets.Unlock(t.Context(), ctl, "login"))
	h.add("login", "one", "secret")
	path := filepath.Join(h.dir, "out")
	_, err := h.Export(t.Context(), keyring.ExportRequest{Caller: ctl, Path: path, Collections: []string{"default"}})
	h.must(err)

	to := newHouse(t)
	wrong := 0
	known := to.user.Default
	to.user.Default = func(q prompt.Question) keyringtest.Reply {
		if strings.HasPrefix(q.Subject, "the archive") {
			if wrong++; wrong == 1 {
				return keyringtest.Reply{Passphrase: "wrong"}
			}
			if !q.Retry {
				t.Error("it was not said that the passphrase was wrong")
			}
		}
		return known(q)
	}
	if m := to.import_(keyring.ImportSecretsRequest{Paths: []string{path}, Archive: true})["Login"]; m.Err != nil || m.Items != 1 || wrong != 2 {
		t.Errorf("%+v after %d answers", m, wrong)
	}
	to.user.Default = func(q prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "wrong"} }
	if m := to.import_(keyring.ImportSecretsRequest{Paths: []string{path}, Archive: true})["out"]; !errors.Is(m.Err, keyring.ErrAuthFailed) {
		t.Errorf("%+v", m)
	}
	if m := to.import_(keyring.ImportSecretsRequest{Paths: []string{"/nonexistent"}, Archive: true})["nonexistent"]; !errors.Is(m.Err, keyring.ErrNotFound) {
		t.Errorf("%+v", m)
	}
}
