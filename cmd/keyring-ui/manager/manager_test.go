package manager

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/driver/desktop"
	"fyne.io/fyne/v2/test"

	"github.com/keyringd/keyringd/cmd/keyring-ui/uitest"
	"github.com/keyringd/keyringd/dbus/client"
)

func titles(b *browser) string {
	var all []string
	for _, e := range b.shown {
		all = append(all, e.title)
	}
	return strings.Join(all, "|")
}

// wants fails unless the daemon was asked to do something.
func (s *shot) wants(call string) {
	s.t.Helper()
	if !s.f.asked(call) {
		s.t.Errorf("not asked for %q, but\n%s", call, strings.Join(s.f.calls, "\n"))
	}
}

func TestSearch(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{placeKeyring, "login"})
	v := s.view.(*itemsView)
	for query, want := range map[string]string{
		"":              "mail.example.org|Chromium Safe Storage|Backup|" + named(s.f.items[loginPath][3].Label),
		"CHROM":         "Chromium Safe Storage",
		"example mia":   "mail.example.org",
		"protocol imap": "mail.example.org",
		"nobody":        "",
	} {
		v.query.SetText(query)
		if got := titles(v.browser); got != want {
			t.Errorf("%q finds %q, want %q", query, got, want)
		}
		if len(v.shown) > 0 && v.chosen != v.shown[0].id && !slices.ContainsFunc(v.shown, func(e entry) bool { return e.id == v.chosen }) {
			t.Errorf("%q: what is not in the list is chosen", query)
		}
	}
	if !s.says("Nothing found") && v.query.Text == "nobody" {
		t.Error("an empty list that does not say why")
	}
	s.to(place{placeKeys, "tpm"})
	k := s.view.(*keysView)
	k.query.SetText("r1bufwu3") // the fingerprint
	if got := titles(k.browser); got != "mia@work-laptop" {
		t.Errorf("%q", got)
	}
	// Control and F goes there, also from the list; Escape clears it.
	s.shortcut(&desktop.CustomShortcut{KeyName: fyne.KeyF, Modifier: fyne.KeyModifierControl})
	if s.c.Focused() != fyne.Focusable(k.query) {
		t.Error("Ctrl+F does not go to the search")
	}
	k.query.TypedKey(&fyne.KeyEvent{Name: fyne.KeyEscape})
	if k.query.Text != "" || len(k.shown) != 3 {
		t.Errorf("%q, %d keys", k.query.Text, len(k.shown))
	}
	k.query.TypedKey(&fyne.KeyEvent{Name: fyne.KeyDown})
	if s.c.Focused() != fyne.Focusable(k.list) {
		t.Error("the arrow key does not go to the list")
	}
}

// A secret is fetched when it is asked for, and gone when one looks away.
func TestReveal(t *testing.T) {
	const value = "correct horse battery staple"
	for name, away := range map[string]func(*shot){
		"hide":          func(s *shot) { s.press("Hide") },
		"another item":  func(s *shot) { s.pick(loginPath + "/2") },
		"another place": func(s *shot) { s.to(place{kind: placeRecent}) },
		"time":          func(s *shot) { s.clock.pass(shownTime) },
		"out of sight":  func(s *shot) { s.Hide() },
		"lock":          func(s *shot) { s.press("Lock") },
		"lock all":      func(s *shot) { s.press("Lock everything") },
		"the daemon is gone": func(s *shot) {
			s.f.tell(client.DaemonEnded, "")
		},
		"locked by others": func(s *shot) {
			s.f.turn("login", true)
			s.f.tell(client.KeyringsChanged, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := show(t, full(), false)
			s.to(place{placeKeyring, "login"})
			v := s.view.(*itemsView)
			s.pick(loginPath + "/1")
			if s.says(value) || s.f.asked("Secret "+loginPath+"/1") {
				t.Fatal("it was not asked for")
			}
			s.press("Show")
			if !s.says(value) {
				t.Fatal("it is not shown")
			}
			away(s)
			s.settle()
			if s.says(value) || v.revealed != "" {
				t.Error("it is still there")
			}
		})
	}
}

func TestCopyClearsTheClipboard(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{placeKeyring, "login"})
	s.pick(loginPath + "/1")
	s.press("Copy")
	if s.board.text != "correct horse battery staple" {
		t.Fatalf("%q", s.board.text)
	}
	s.clock.pass(ClipboardTime - time.Second)
	s.settle()
	if s.board.text == "" {
		t.Error("cleared too early")
	}
	s.clock.pass(time.Second)
	s.settle()
	if s.board.text != "" {
		t.Errorf("%q is still there", s.board.text)
	}
	// What others copied meanwhile is theirs.
	s.press("Copy")
	s.board.text = "another text"
	s.clock.pass(ClipboardTime)
	s.settle()
	if s.board.text != "another text" {
		t.Error("another's text was cleared")
	}
	// A second copy has all of its time.
	s.press("Copy")
	s.clock.pass(ClipboardTime - time.Second)
	s.settle()
	s.press("Copy")
	s.clock.pass(ClipboardTime - time.Second)
	s.settle()
	if s.board.text == "" {
		t.Error("the first copy's time ended the second")
	}
	s.Stop()
	if s.board.text != "" {
		t.Errorf("%q outlives the window", s.board.text)
	}
}

func TestKeys(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{placeKeys, "tpm"})
	s.pick(workID)
	s.press("Copy public key")
	if !strings.HasPrefix(s.board.text, "ecdsa-sha2-nistp256 AAAA") || !strings.HasSuffix(s.board.text, " mia@work-laptop") {
		t.Errorf("public key %q", s.board.text)
	}
	s.clock.pass(ClipboardTime)
	s.settle()
	if s.board.text == "" {
		t.Error("a public key is no secret")
	}
	s.press("New key…")
	if f := s.button("Create"); !f.Disabled() {
		t.Error("a key without a name")
	}
	s.fields()[0].SetText("a/b")
	if !s.button("Create").Disabled() {
		t.Error("a name with a slash")
	}
	s.fields()[0].SetText(" id_new ")
	s.fields()[1].SetText("mia")
	test.Tap(s.ticks()[0])
	s.press("Create")
	s.wants("Create id_new ecdsa-p256 mia true")
	if len(s.dialogs) != 0 {
		t.Error("the dialog is still there")
	}

	s.press("Import…")
	s.file = "/media/usb/id_ecdsa"
	s.press("Browse…")
	s.press("Import")
	s.wants("Import /media/usb/id_ecdsa  false")
	if !s.says("The file is still there.") {
		t.Error("what must be read is not said")
	}
	s.press("Close")

	s.to(place{placeKeys, "tpm"})
	s.pick(workID)
	s.press("Change PIN…")
	s.press("Continue")
	s.wants("ChangeAuth " + workID + "  false")
	s.press("Rename…")
	s.fields()[0].SetText("work")
	s.press("Rename")
	s.wants("SetLabel " + workID + "  work")
	s.press("Request a certificate…")
	s.fields()[1].SetText("a.example.org  192.0.2.7")
	s.press("Sign the request")
	s.wants("RequestCertificate " + workID + "  [a.example.org 192.0.2.7]")
	s.file = "/home/mia/x.csr"
	s.press("Save…")
	if !strings.HasPrefix(s.saved["/home/mia/x.csr"], "-----BEGIN CERTIFICATE REQUEST-----\n") {
		t.Errorf("saved %q", s.saved)
	}
	s.press("Close")
	s.pick("aa01")
	s.press("Remove…")
	s.press("Remove")
	s.wants("Remove aa01 ")
}

// What went wrong is said where it was done, and nothing typed is lost.
func TestFailedDialog(t *testing.T) {
	s := show(t, full(), false)
	s.f.fail = map[string]error{"Create": &client.Error{Name: "org.freedesktop.DBus.Error.Failed", Text: "the disk is full"}}
	s.press("New key…")
	s.fields()[0].SetText("id_new")
	s.press("Create")
	if !s.says("The disk is full") || len(s.dialogs) != 1 || s.fields()[0].Text != "id_new" {
		t.Fatal("the fault is not said, or what was typed is gone")
	}
	s.f.fail = nil
	s.press("Create")
	if len(s.dialogs) != 0 {
		t.Error("it is not done the second time")
	}
}

// Cancelling takes back what the daemon is doing, and asks for nothing new.
func TestCancel(t *testing.T) {
	s := show(t, full(), false)
	s.f.hold = map[string]chan struct{}{"Create": make(chan struct{})}
	s.press("New key…")
	s.fields()[0].SetText("id_new")
	s.button("Create").Tapped(nil)
	s.until("the daemon is asked", func() bool { return s.f.asked("Create id_new ecdsa-p256  false") })
	if !s.button("Create").Disabled() || !s.fields()[0].Disabled() {
		t.Error("it can be done twice")
	}
	s.press("Cancel")
	if len(s.dialogs) != 1 || s.fields()[0].Disabled() || s.button("Create").Disabled() {
		t.Error("the dialog cannot be used again")
	}
	s.c.OnTypedKey()(&fyne.KeyEvent{Name: fyne.KeyEscape})
	if len(s.dialogs) != 0 {
		t.Error("Escape does not close it")
	}
}

func TestKeyrings(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{placeKeyring, "work"})
	if s.f.asked("Items /org/freedesktop/secrets/collection/work") {
		t.Error("the items of a locked keyring were asked for")
	}
	s.press("Unlock…")
	s.wants("UnlockKeyring work")
	s.wants("Items /org/freedesktop/secrets/collection/work")
	s.press("Lock")
	s.wants("LockKeyring work")
	if !s.says("This keyring is locked") {
		t.Error("it does not say so")
	}
	s.createKeyringDialog()
	s.fields()[0].SetText("Mine")
	s.press("Create")
	s.wants("CreateKeyring Mine")

	s.to(place{placeKeyring, "login"})
	k := s.keyrings[0]
	s.renameKeyringDialog(k)
	s.fields()[0].SetText("Home")
	s.press("Rename")
	s.wants("SetKeyringLabel " + loginPath + " Home")
	s.deleteKeyringDialog(k)
	s.press("Delete")
	s.wants("DeleteKeyring " + loginPath)

	s.slotsDialog(k)
	s.settle()
	s.press("TPM with a PIN")
	s.wants("AddSlot login tpm true")
	s.press("Recovery code")
	if !s.says("KXQ7-4M2P-9WZT-HB3C-5RND-8FYG") {
		t.Fatal("the code is not shown")
	}
	s.c.OnTypedKey()(&fyne.KeyEvent{Name: fyne.KeyEscape})
	if !s.button("Done").Disabled() || len(s.dialogs) != 2 {
		t.Error("the code can go before it was written down")
	}
	test.Tap(s.ticks()[0])
	s.press("Done")
	if s.says("KXQ7") {
		t.Error("the code is still there")
	}
}

func TestMoving(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{placeKeyring, "login"})
	s.importKeyringsDialog()
	if !s.button("Import").Disabled() {
		t.Error("nothing can be imported")
	}
	s.file = "/media/usb/login.keyring"
	s.press("Browse…")
	test.Tap(s.ticks()[0])
	s.press("Import")
	s.wants("ImportKeyrings [/media/usb/login.keyring]  true")
	if !s.says("12 passwords moved") || !s.says("One password was there already") || !s.says("Wrong passphrase") {
		t.Error("what became of it is not said")
	}
	s.press("Close")
	s.exportKeyringDialog(s.keyrings[0])
	s.press("Export")
	s.wants("ExportKeyrings /home/mia/passwords.keyringd [login] false false")
	s.press("Close")
}

func TestItems(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{placeKeyring, "login"})
	s.press("Add…")
	s.fields()[0].SetText("Bank")
	if !s.button("Save").Disabled() {
		t.Error("a password without one")
	}
	s.fields()[1].SetText("p%é😀")
	s.press("Add an attribute")
	s.fields()[2].SetText("user")
	s.fields()[3].SetText("mia")
	s.press("Add an attribute")
	s.fields()[4].SetText("user")
	if !s.button("Save").Disabled() {
		t.Error("an attribute twice")
	}
	s.fields()[4].SetText("")
	s.press("Save")
	s.wants("CreateItem " + loginPath + " Bank map[user:mia] p%é😀")

	s.pick(loginPath + "/1")
	s.press("Edit…")
	s.fields()[0].SetText("Post")
	s.press("Save")
	s.wants("ChangeItem " + loginPath + "/1 Post map[] -") // nothing else
	s.press("Edit…")
	s.fields()[1].SetText("new")
	s.press("Save")
	s.wants("ChangeItem " + loginPath + "/1 - map[] new")
	// What cannot be shown as it is stays as it is.
	s.pick(loginPath + "/4")
	s.press("Edit…")
	s.fields()[0].SetText("short")
	s.press("Save")
	s.wants("ChangeItem " + loginPath + "/4 short map[] -")

	s.press("Delete…")
	s.press("Cancel")
	if s.f.asked("DeleteItem " + loginPath + "/4") {
		t.Fatal("deleted without a yes")
	}
	s.press("Delete…")
	s.press("Delete")
	s.wants("DeleteItem " + loginPath + "/4")
}

// Errors are sentences, and what the user took back is none.
func TestSentences(t *testing.T) {
	for _, c := range []struct {
		err        error
		said, hint string
	}{
		{client.ErrDismissed, "", ""},
		{&client.Error{Name: "org.freedesktop.Secret.Error.IsLocked", Text: "x"}, "The keyring is locked.", "Unlock it first."},
		{&client.Error{Name: "org.freedesktop.DBus.Error.Failed", Text: "the TPM refuses more\x1b[31m tries"}, "The TPM refuses more\uFFFD[31m tries", ""},
		{errors.New("id_work is there"), "id_work is there", ""},
	} {
		if said, hint := sentence(c.err); said != c.said || hint != c.hint {
			t.Errorf("%v: %q, %q", c.err, said, hint)
		}
	}
}

// Every word is there in every language that there is.
func TestTranslationsAreWhole(t *testing.T) {
	said := uitest.Said(t, regexp.MustCompile(`lang\.[LX]\("([^"]+)"|plural\("([^"]+)"`), "../manager_window.go")
	if len(said) < 100 {
		t.Fatalf("found %d texts", len(said))
	}
	uitest.Translated(t, translations, said)
}
