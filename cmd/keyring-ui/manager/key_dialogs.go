package manager

import (
	"context"
	"encoding/pem"
	"path/filepath"
	"strings"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
)

// stepName is what a step that the daemon tells of is called here. The daemon's
// own words do where there are none.
func stepName(s string) string {
	if s == client.Asking {
		return lang.L("Waiting for your answer in the other window")
	}
	return capital(clean(s))
}

// algorithms are what a TPM may make, as the daemon and as people call them.
func algorithms() (names, shown []string) {
	names = []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072", "rsa-4096"}
	for _, n := range names {
		shown = append(shown, algorithm(n))
	}
	shown[0] = lang.L("{{.Algorithm}} (usual)", map[string]any{"Algorithm": shown[0]})
	return names, shown
}

// createKeyDialog makes a new key in the TPM.
func (m *Manager) createKeyDialog() {
	d := m.newDialog(lang.L("New key in the TPM"))
	name := d.field(lang.L("Name of its file"), "id_work", "")
	comment := d.field(lang.L("Label"), lang.L("optional, as mia@laptop"), "")
	names, shown := algorithms()
	kind := d.choice(lang.L("Algorithm"), shown, shown[0])
	pin := d.tick(lang.L("Protect it with a PIN"), true)
	d.valid = func() bool { return fileName(name.Text) }
	d.accept(lang.L("Create"), func() {
		c := client.Creation{Algorithm: names[kind.SelectedIndex()]}
		c.Path, c.Comment, c.NoPIN, c.Progress = strings.TrimSpace(name.Text), strings.TrimSpace(comment.Text), !pin.Checked, d.step
		var made client.Made
		d.run(lang.L("Making the key. Some TPMs take a minute."), func(ctx context.Context) (err error) {
			made, err = m.o.Daemon.Create(ctx, c)
			return err
		}, func() { m.made(d, made, lang.L("The key was made.")) })
	})
	d.show(name)
}

// fileName reports whether s can be the name of a key's file.
func fileName(s string) bool {
	s = strings.TrimSpace(s)
	return s != "" && s != "." && s != ".." && clean(s) == s && (filepath.IsAbs(s) || !strings.Contains(s, "/"))
}

// made shows what was made: in the list and, where there is something to be
// read, in a dialog.
func (m *Manager) made(d *dialog, made client.Made, said string) {
	m.loadKeys()
	m.enter(place{kind: placeKeys, id: "tpm"})
	if v, ok := m.view.(*keysView); ok {
		v.chosen = made.ID
	}
	if len(made.Notes) == 0 {
		m.done(d, said)
		return
	}
	d.close()
	told := m.newDialog(said)
	told.add(facts(lang.L("File"), tilde(m, made.Path)))
	for _, n := range made.Notes {
		told.add(newText(faceText, clean(n)))
	}
	told.show(told.cancel)
}

// importKeyDialog makes a TPM key of one in a file.
func (m *Manager) importKeyDialog(source string) {
	d := m.newDialog(lang.L("Import a key into the TPM"))
	d.add(newText(faceDim, lang.L("OpenSSH, PEM, PKCS #8 and PKCS #12 files. The file itself stays as it is.")))
	path := d.pathField(lang.L("Private key file"), "~/.ssh/id_ecdsa", tilde(m, source), false, lang.L("Choose a private key"), "")
	name := d.field(lang.L("Name of the new file"), lang.L("optional: the file's name with .tpm"), "")
	comment := d.field(lang.L("Label"), lang.L("optional, as mia@laptop"), "")
	pin := d.tick(lang.L("Protect it with a PIN"), true)
	d.valid = func() bool {
		return filepath.IsAbs(m.whole(path.Text)) && (strings.TrimSpace(name.Text) == "" || fileName(name.Text))
	}
	d.accept(lang.L("Import"), func() {
		t := client.Target{Path: strings.TrimSpace(name.Text), Comment: strings.TrimSpace(comment.Text), NoPIN: !pin.Checked, Progress: d.step}
		from := m.whole(path.Text)
		var made client.Made
		d.run(lang.L("Importing the key"), func(ctx context.Context) (err error) {
			made, err = m.o.Daemon.Import(ctx, from, t)
			return err
		}, func() { m.made(d, made, lang.L("The key was imported.")) })
	})
	d.show(path)
}

// whole puts the home in the place of ~.
func (m *Manager) whole(path string) string {
	path = strings.TrimSpace(path)
	if rest, ok := strings.CutPrefix(path, "~/"); ok && m.o.Home != "" {
		return filepath.Join(m.o.Home, rest)
	}
	return path
}

// choose lets the user choose a file.
func (m *Manager) choose(save bool, title, name string, then func(path string)) {
	background(m, func(ctx context.Context) (string, error) { return m.o.Choose(ctx, save, title, name) }, func(path string, err error) {
		if err != nil {
			m.notice.fault(err)
		} else if path != "" {
			then(path)
		}
	})
}

// changePINDialog gives a key another PIN, or none.
func (m *Manager) changePINDialog(k client.Key) {
	title := lang.L("Set a PIN")
	if k.NeedsAuth {
		title = lang.L("Change the PIN")
	}
	d := m.newDialog(title)
	choose, file := d.chooseFile(k, false)
	d.add(facts(lang.L("Key"), named(k.Label)), choose, newText(faceDim, lang.L("keyringd asks for the PINs in a window of its own.")))
	none := newCheck(lang.L("No PIN from now on"), nil, d.cancelled)
	if k.NeedsAuth {
		d.locked = append(d.locked, none)
		d.add(flush(none))
	}
	d.accept(lang.L("Continue"), func() {
		d.run(lang.L("Waiting for your answer in the other window"), func(ctx context.Context) error {
			_, err := m.o.Daemon.ChangeAuth(ctx, client.File{ID: k.ID, Path: file()}, none.Checked, d.step)
			return err
		}, func() { m.done(d, lang.L("The PIN was changed.")); m.loadKeys() })
	})
	d.show(d.ok)
}

// renameKeyDialog gives a key another label.
func (m *Manager) renameKeyDialog(k client.Key) {
	d := m.newDialog(lang.L("Rename the key"))
	label := d.field(lang.L("Label"), lang.L("none: the file's name is shown"), clean(k.Label))
	choose, file := d.chooseFile(k, false)
	d.add(choose)
	d.accept(lang.L("Rename"), func() {
		to := strings.TrimSpace(label.Text)
		d.run(lang.L("Renaming the key"), func(ctx context.Context) error {
			return m.o.Daemon.SetLabel(ctx, client.File{ID: k.ID, Path: file()}, to)
		}, func() { m.done(d, lang.L("Renamed.")); m.loadKeys() })
	})
	d.show(label)
}

// certificateDialog has a key sign a request for a certificate.
func (m *Manager) certificateDialog(k client.Key) {
	d := m.newDialog(lang.L("Request a certificate"))
	d.add(newText(faceDim, lang.L("The key signs a request that a certificate authority answers.")))
	subject := d.field(lang.L("Subject"), "CN=mail.example.org,O=Example", "")
	names := d.field(lang.L("Other names, with spaces between"), "mail.example.org mia@example.org 192.0.2.7", "")
	d.valid = func() bool {
		return strings.TrimSpace(subject.Text) != "" || strings.TrimSpace(names.Text) != ""
	}
	d.accept(lang.L("Sign the request"), func() {
		r := client.Request{Subject: strings.TrimSpace(subject.Text), AlternativeNames: strings.Fields(names.Text)}
		var der []byte
		d.run(lang.L("Signing the request"), func(ctx context.Context) (err error) {
			der, err = m.o.Daemon.RequestCertificate(ctx, k.ID, r)
			return err
		}, func() {
			d.close()
			m.showRequest(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
		})
	})
	d.show(subject)
}

// showRequest hands a request out.
func (m *Manager) showRequest(text string) {
	d := m.newDialog(lang.L("Certificate request"))
	lines := strings.Split(strings.TrimSpace(text), "\n")
	shown := lines
	if len(shown) > 6 {
		shown = append(append([]string{}, lines[:3]...), "…", lines[len(lines)-1])
	}
	block := container.New(column{})
	for _, l := range shown {
		block.Add(newLine(face{size: theme.SizeNameCaptionText, color: theme.ColorNameForeground, style: fyne.TextStyle{Monospace: true}}, l))
	}
	d.add(newText(faceText, lang.L("Send this to the certificate authority.")), on(promptui.ColorSide, block))
	d.add(actions(
		newButton(lang.L("Copy"), theme.ContentCopyIcon(), func() { m.copy(text) }, d.cancelled),
		newButton(lang.L("Save…"), theme.DocumentSaveIcon(), func() {
			m.choose(true, lang.L("Save the request"), "request.csr", func(p string) {
				m.act(lang.L("Saved."), func(context.Context) error { return m.o.Save(p, []byte(text)) })
			})
		}, d.cancelled)))
	d.show(d.cancel)
}
