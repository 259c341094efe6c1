package pinentry

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyringd/keyringd/prompt"
)

// TestAllowCoversEveryCandidate: whatever a prompter would start, it may.
func TestAllowCoversEveryCandidate(t *testing.T) {
	dir := t.TempDir()
	for _, name := range slices.Concat([]string{"keyring-ui", "ssh-askpass", "ksshaskpass", "my-askpass"}, desktopPrograms, terminalPrograms) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	besides := filepath.Join(t.TempDir(), "keyringd")
	if err := os.WriteFile(filepath.Join(filepath.Dir(besides), "keyring-ui"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	covered := func(a Allowed, p prompt.Prompter) {
		t.Helper()
		switch p := p.(type) {
		case *Program:
			if !slices.Contains(a.Pinentry, p.Path) {
				t.Errorf("%s would be started, and may not", p.Path)
			}
		case *Askpass:
			if !slices.Contains(a.Askpass, p.Path) {
				t.Errorf("%s would be asked with, and may not", p.Path)
			}
		}
	}
	for _, executable := range []string{"", besides} {
		env := Env{Executable: executable, Environ: []string{"PATH=relative:" + dir, "DISPLAY=:0", "SSH_ASKPASS=my-askpass"}}
		a := Allow("auto", env)
		candidates := env.candidates(context.Background())
		if len(candidates) < 3 {
			t.Fatalf("%d candidates", len(candidates))
		}
		for _, p := range candidates {
			covered(a, p)
		}
		for _, spec := range []string{"ui", "pinentry:pinentry-qt", "pinentry:" + dir + "/pinentry", "askpass:my-askpass"} {
			p, err := New(spec, env)
			if err != nil {
				t.Fatal(err)
			}
			covered(Allow(spec, env), p)
		}
	}
	if a := Allow("none", Env{Environ: []string{"PATH=" + dir}}); len(a.Pinentry)+len(a.Askpass) != 0 {
		t.Errorf("without a prompter, %q and %q may be started", a.Pinentry, a.Askpass)
	}
}
