package pinentry

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/prompt"
)

func askpass(t *testing.T, mode string) (*Askpass, func() string) {
	path, said := fake(t, "askpass", mode)
	return &Askpass{Path: path, Environ: append(os.Environ(), "SSH_ASKPASS_PROMPT=none", "TOKEN=canary")}, said
}

func TestAskpass(t *testing.T) {
	for _, test := range []struct {
		mode, want string
		err        error
	}{
		{"say:1234", "1234", nil},
		{"say: spaces stay ", " spaces stay ", nil},
		{"crlf", "1234", nil},
		{"no-newline", "1234", nil},
		{"silent", "", nil},
		{"refuse", "", prompt.ErrDismissed},
		{"segv", "", prompt.ErrUnavailable},
		{"flood", "", prompt.ErrUnavailable},
		{"flood-line", "", prompt.ErrUnavailable},
	} {
		t.Run(test.mode, func(t *testing.T) {
			p, said := askpass(t, test.mode)
			a, err := p.Prompt(t.Context(), question)
			if got := text(a.Passphrase); got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%q %v", got, err)
			}
			s := said()
			if !strings.Contains(s, `args ["Wrong PIN. 2 tries left.\nEnter the PIN for:\nwork laptop`) ||
				!strings.Contains(s, `hint ""`) || strings.Contains(s, "canary") {
				t.Errorf("told %s", s)
			}
		})
	}
}

func TestAskpassConfirm(t *testing.T) {
	for mode, want := range map[string]error{
		"silent": nil, "say:yes": nil, "say:YES": nil, "say:": nil,
		"say:no": prompt.ErrDismissed, "say:1234": prompt.ErrDismissed, "refuse": prompt.ErrDismissed,
		"segv": prompt.ErrUnavailable,
	} {
		p, said := askpass(t, mode)
		a, err := p.Prompt(t.Context(), prompt.Question{Kind: prompt.Confirm, Subject: "k"})
		if !errors.Is(err, want) || a.Passphrase.Len() != 0 {
			t.Errorf("%s: error %v, want %v", mode, err, want)
		}
		if !strings.Contains(said(), `hint "confirm"`) {
			t.Errorf("%s: told %s", mode, said())
		}
	}
}

func TestAskpassNotice(t *testing.T) {
	for _, mode := range []string{"silent", "refuse"} {
		p, said := askpass(t, mode)
		if _, err := p.Prompt(t.Context(), prompt.Question{Kind: prompt.Notice, Subject: "k"}); err != nil {
			t.Error(err)
		}
		if !strings.Contains(said(), `hint "none"`) {
			t.Errorf("told %s", said())
		}
	}
}

func TestAskpassNewPassphrase(t *testing.T) {
	q := prompt.Question{Kind: prompt.NewPassphrase, Subject: "login"}
	p, said := askpass(t, "say:new one")
	a, err := p.Prompt(t.Context(), q)
	if got := text(a.Passphrase); got != "new one" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if strings.Count(said(), "pid ") != 2 || !strings.Contains(said(), "Repeat the new passphrase for:") {
		t.Errorf("told %s", said())
	}
	p, said = askpass(t, "count")
	if a, err := p.Prompt(t.Context(), q); !errors.Is(err, prompt.ErrDismissed) || a.Passphrase.Len() != 0 {
		t.Errorf("never the same: %v", err)
	}
	if strings.Count(said(), "pid ") != 2*maxRounds || !strings.Contains(said(), "The two were not the same") {
		t.Errorf("told %s", said())
	}
}

func TestAskpassHangs(t *testing.T) {
	p, said := askpass(t, "hang")
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		before := strings.Count(said(), "env ")
		go func() {
			_, err := p.Prompt(ctx, question)
			done <- err
		}()
		until(t, "program started", func() bool { return strings.Count(said(), "env ") > before })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		if alive(pid(t, said)) {
			t.Fatal("the program is still there")
		}
	}
	p.Timeout = 20 * time.Millisecond
	if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrDismissed) {
		t.Errorf("unanswered: %v", err)
	}
	p.Path = "/nonexistent"
	if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrUnavailable) {
		t.Errorf("not there: %v", err)
	}
}
