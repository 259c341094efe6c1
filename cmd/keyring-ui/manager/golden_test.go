package manager

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/cmd/keyring-ui/uitest"
	"github.com/keyringd/keyringd/dbus/client"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// speak makes the words those of a locale for the test.
func speak(t *testing.T, locale string) {
	t.Helper()
	uitest.Speak(t, locale, Translate)
}

const (
	loginPath = "/org/freedesktop/secrets/collection/login"
	workID    = "f3a19b0c7d2e4f5061728394a5b6c7d8e9f00112233445566778899aabbccdde"
	hostile   = "\x1b[31m<b>Your bank</b>\u202e!gnp.exe\u202c &lt;PIN&gt; \x00\x07 Z\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307"
)

func publicKey(kind string) []byte {
	return append([]byte{0, 0, 0, byte(len(kind))}, kind+strings.Repeat("k", 60)...)
}

// full is a daemon with a bit of everything.
func full() *fakeDaemon {
	earlier := noon.Add(-40 * 24 * time.Hour)
	return &fakeDaemon{
		keys: []client.Key{
			{ID: workID, Label: "mia@work-laptop", Algorithm: "ecdsa-p256", Kind: "tpm", Fingerprint: "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
				Paths: []string{"/home/mia/.ssh/id_work.tpm"}, NeedsAuth: true, PublicKey: publicKey("ecdsa-sha2-nistp256"), Certificates: [][]byte{{1}}},
			{ID: "aa01", Label: "git signing", Algorithm: "rsa-2048", Kind: "tpm", Fingerprint: "SHA256:Uoq5dP4p660laYMMPBrath+uJtJCt2veEK2gkBQoSUQ",
				Paths: []string{"/home/mia/.ssh/git", "/home/mia/backup/git"}, PublicKey: publicKey("ssh-rsa"), Confirm: true},
			{ID: "aa02", Label: hostile, Algorithm: "ecdsa-p384", Kind: "tpm", Fingerprint: "SHA256:x", Paths: []string{"/home/mia/.ssh/" + strings.Repeat("deep/", 60) + "id"}, NeedsAuth: true},
			{ID: "bb01", Label: "mia@laptop", Algorithm: "ed25519", Kind: "file", Fingerprint: "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8",
				Paths: []string{"/home/mia/.ssh/id_ed25519"}, NeedsAuth: true, PublicKey: publicKey("ssh-ed25519")},
			{ID: "cc01", Label: "build key", Algorithm: "ed25519", Kind: "added", Fingerprint: "SHA256:y", PublicKey: publicKey("ssh-ed25519")},
		},
		keyrings: []client.Keyring{
			{ID: "login", Label: "Login", Items: 4, Aliases: []string{"default", "login"}, Path: loginPath},
			{ID: "work", Label: "Work", Locked: true, Items: 12, Path: "/org/freedesktop/secrets/collection/work"},
			{ID: "session", Aliases: []string{"session"}, Path: "/org/freedesktop/secrets/collection/session"},
		},
		items: map[string][]client.Item{loginPath: {
			{Path: loginPath + "/1", Label: "mail.example.org", Attributes: map[string]string{"xdg:schema": "org.gnome.keyring.NetworkPassword", "user": "mia", "server": "mail.example.org", "protocol": "imap"},
				Created: earlier, Modified: noon.Add(-time.Hour)},
			{Path: loginPath + "/2", Label: "Chromium Safe Storage", Attributes: map[string]string{"xdg:schema": "chrome_libsecret_os_crypt_password_v2", "application": "chromium"}, Created: earlier},
			{Path: loginPath + "/3", Label: "Backup", Attributes: map[string]string{"xdg:schema": "org.freedesktop.Secret.Generic"}, Created: earlier},
			{Path: loginPath + "/4", Label: strings.Repeat("a very long label ", 30), Attributes: map[string]string{hostile: strings.Repeat("value ", 90)}},
		}},
		secrets: map[string]string{loginPath + "/1": "correct horse battery staple", loginPath + "/4": hostile},
		slots: []client.Slot{
			{ID: "1", Kind: "passphrase", Created: earlier}, {ID: "2", Kind: "tpm", PIN: true, PCRs: "sha256:0,7", Created: noon},
			{ID: "3", Kind: "recovery", Created: noon},
		},
		approvals: []client.Approval{
			{ID: 1, Key: workID, Label: "mia@work-laptop", Program: "ssh (41234) ← git ← zsh", Scope: "sign in to git.example.org as mia", Given: noon.Add(-3 * time.Minute), Until: noon.Add(7 * time.Minute)},
			{ID: 2, Key: "aa01", Label: "git signing", Program: "/usr/bin/git", Scope: "any use", Given: noon.Add(-time.Minute), Until: noon.Add(30 * time.Second)},
		},
		history: []client.Past{
			{At: earlier, FrontEnd: "pkcs11", Caller: "firefox (811)", Label: "mia@work-laptop", Key: workID, Reason: "sign"},
			{At: noon.Add(-time.Hour), FrontEnd: "agent", Caller: "ssh (4000) ← bash", Label: "git signing", Key: "aa01", Outcome: "denied by the user"},
			{At: noon.Add(-time.Minute), FrontEnd: "agent", Caller: "ssh (41234) ← git ← zsh", Label: "mia@work-laptop", Key: workID, Reason: "sign in to git.example.org as mia"},
		},
	}
}

// gallery is every picture that is in testdata.
func gallery() map[string]func(t *testing.T, dark bool) *shot {
	type view = func(t *testing.T, dark bool) *shot
	at := func(f *fakeDaemon, p place, then func(*shot)) view {
		return func(t *testing.T, dark bool) *shot {
			s := show(t, f, dark)
			s.to(p)
			if then != nil {
				then(s)
			}
			s.settle()
			return s
		}
	}
	german := func(m view) view {
		return func(t *testing.T, dark bool) *shot {
			speak(t, "de_DE.UTF-8")
			return m(t, dark)
		}
	}
	keys, login := place{placeKeys, "tpm"}, place{placeKeyring, "login"}
	failing := full()
	failing.fail = map[string]error{"Create": &client.Error{Name: "org.freedesktop.DBus.Error.Failed", Text: "id_work is there already; choose another name, or remove it first"}}
	creating := func(s *shot) {
		s.press("New key…")
		s.fields()[0].SetText("id_work")
		s.fields()[1].SetText("mia@work-laptop")
	}
	choose := func(id string) func(*shot) {
		return func(s *shot) {
			s.pick(id)
		}
	}
	return map[string]view{
		"keys":         at(full(), keys, nil),
		"keys-empty":   at(&fakeDaemon{}, keys, nil),
		"keys-hostile": at(full(), keys, choose("aa02")),
		"key-file":     at(full(), place{placeKeys, "file"}, nil),
		"items":        at(full(), login, func(s *shot) { s.pick(loginPath + "/1") }),
		"item-shown": at(full(), login, func(s *shot) {
			s.pick(loginPath + "/1")
			s.press("Show")
		}),
		"item-hostile":   at(full(), login, func(s *shot) { s.pick(loginPath + "/4"); s.press("Show") }),
		"items-search":   at(full(), login, func(s *shot) { s.view.(*itemsView).query.SetText("chrom") }),
		"keyring-locked": at(full(), place{placeKeyring, "work"}, nil),
		"recent":         at(full(), place{kind: placeRecent}, nil),
		"approvals":      at(full(), place{kind: placeApprovals}, nil),
		"settings":       at(full(), place{kind: placeSettings}, nil),
		"create":         at(full(), keys, creating),
		"create-failed": at(failing, keys, func(s *shot) {
			creating(s)
			s.press("Create")
		}),
		"creating": func(t *testing.T, dark bool) *shot {
			f := full()
			f.hold = map[string]chan struct{}{"Create": make(chan struct{})}
			s := at(f, keys, creating)(t, dark)
			s.button("Create").Tapped(nil)
			s.until("the daemon says what it is at", func() bool { return strings.HasPrefix(s.dialogs[0].running.label.full, "Creating") })
			return s
		},
		"import": at(full(), keys, func(s *shot) { s.press("Import…") }),
		"remove": at(full(), keys, func(s *shot) { s.pick("aa01"); s.press("Remove…") }),
		"certificate": at(full(), keys, func(s *shot) {
			s.press("Request a certificate…")
			s.fields()[0].SetText("CN=mia")
			s.press("Sign the request")
		}),
		"slots":    at(full(), login, func(s *shot) { s.slotsDialog(s.keyrings[0]); s.settle() }),
		"recovery": at(full(), login, func(s *shot) { s.recoveryDialog(s.keyrings[0], "KXQ7-4M2P-9WZT-HB3C-5RND-8FYG") }),
		"item-edit": at(full(), login, func(s *shot) {
			s.pick(loginPath + "/1")
			s.press("Edit…")
		}),
		"keyring-delete": at(full(), login, func(s *shot) { s.deleteKeyringDialog(s.keyrings[0]) }),
		"moving-import":  at(full(), login, func(s *shot) { s.importKeyringsDialog() }),
		"moving-export":  at(full(), login, func(s *shot) { s.exportKeyringDialog(s.keyrings[0]) }),
		"moving-done": at(full(), login, func(s *shot) {
			s.importKeyringsDialog()
			s.fields()[0].SetText("/x")
			s.press("Import")
		}),
		"keyring-menu": at(full(), login, func(s *shot) { s.view.(*itemsView).menu() }),
		"notice": at(full(), keys, func(s *shot) {
			s.notice.fault(&client.Error{Name: "org.freedesktop.DBus.Error.AuthFailed", Text: "mia@work-laptop: wrong PIN; 2 tries are left before the TPM refuses all for some hours"})
		}),
		"no-daemon": func(t *testing.T, dark bool) *shot { return show(t, &fakeDaemon{absent: true}, dark) },
		"settings-by-hand": at(full(), place{kind: placeSettings}, func(s *shot) {
			s.s.err = fmt.Errorf("%w: line 3: expected a value", config.ErrByHand)
			s.reload()
		}),
		"german":           german(at(full(), keys, nil)),
		"german-items":     german(at(full(), login, func(s *shot) { s.pick(loginPath + "/1") })),
		"german-settings":  german(at(full(), place{kind: placeSettings}, nil)),
		"german-no-daemon": german(func(t *testing.T, dark bool) *shot { return show(t, &fakeDaemon{absent: true}, dark) }),
	}
}

// lightOnly are those that another picture shows in the dark: each takes its time.
var lightOnly = map[string]bool{
	"keys-empty": true, "keys-hostile": true, "item-shown": true, "items-search": true, "creating": true, "import": true, "certificate": true,
	"item-edit": true, "settings-by-hand": true, "german": true, "german-settings": true, "german-no-daemon": true, "remove": true,
	"moving-import": true, "moving-export": true,
}

// TestLooks compares each view, in light and in dark, with the image in testdata
// that a person looked at.
func TestLooks(t *testing.T) {
	speak(t, "C")
	for name, picture := range gallery() {
		for suffix, dark := range map[string]bool{"light": false, "dark": true} {
			if dark && lightOnly[name] {
				continue
			}
			t.Run(name+"/"+suffix, func(t *testing.T) {
				s := picture(t, dark)
				s.c.Focus(nil)
				uitest.Compare(t, name+"-"+suffix, s.c.Capture())
			})
		}
	}
}
