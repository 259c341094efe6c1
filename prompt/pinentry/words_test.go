package pinentry

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/assuan"
	"github.com/keyringd/keyringd/prompt"
)

func TestDescribe(t *testing.T) {
	for _, test := range []struct {
		q    prompt.Question
		want string
	}{
		{prompt.Question{Subject: "login"}, "Enter the passphrase for:\nlogin"},
		{prompt.Question{Kind: prompt.NewPassphrase, PIN: true, Subject: "k"}, "Choose a new PIN for:\nk"},
		{prompt.Question{Kind: prompt.Confirm, Subject: "k", Caller: "ssh (1)"}, "Allow the use of this?\nk\n\nAsked by: ssh (1)"},
		{prompt.Question{Kind: prompt.Notice, Subject: "k", Warning: "locked until 14:05"}, "Please note:\nk\n\nlocked until 14:05"},
		{prompt.Question{Subject: "k", Fingerprint: "SHA256:x", Host: "h", HostWarning: "not verified", Through: "gw → b", Reason: "sign in", Caller: "ssh"},
			"Enter the passphrase for:\nk\nSHA256:x\n\nHost: h\nThis host: not verified\nThrough: gw → b\nWhat for: sign in\nAsked by: ssh"},
		{prompt.Question{HostWarning: "of a host that is not known"}, "Enter the passphrase for:"},
		{prompt.Question{Remember: time.Minute}, "Enter the passphrase for:\n\nRemembered for 1 minute."},
	} {
		if got := describe(test.q); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

// However long and odd the texts, the line fits and its first part is ours.
func TestDescriptionAlwaysFits(t *testing.T) {
	for _, s := range []string{strings.Repeat("x", 5000), strings.Repeat("%\n", 900), strings.Repeat("←𝄞", 900), strings.Repeat("\xff%", 999)} {
		q := prompt.Question{Kind: prompt.NewPassphrase, Subject: s, Reason: s, Caller: s, Warning: s,
			Host: s, HostWarning: s, Through: s, Fingerprint: "SHA256:" + strings.Repeat("x", 43), Remember: 59 * time.Minute}
		line := set("SETDESC", describe(q))
		if len(line) > assuan.MaxLine {
			t.Errorf("%.8q: %d bytes", s, len(line))
		}
		if !strings.HasPrefix(line, "SETDESC Choose a new passphrase for:%0A") || !strings.HasSuffix(line, "Remembered for 59 minutes.") {
			t.Errorf("%.8q: %s", s, line)
		}
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct {
		s     string
		limit int
		want  string
	}{
		{"abc", 3, "abc"}, {"abcdef", 5, "ab…"}, {"", 3, ""}, {"äöü", 6, "äöü"}, {"äöüä", 7, "äö…"}, {"%%%", 8, "%…"},
	} {
		got := fit(test.s, test.limit)
		if got != test.want || !utf8.ValidString(got) {
			t.Errorf("fit(%q, %d) = %q, want %q", test.s, test.limit, got, test.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Minute: "10 minutes", time.Hour: "1 hour", 90 * time.Minute: "90 minutes", 8 * time.Hour: "8 hours",
		45 * time.Second: "45 seconds", 90 * time.Second: "90 seconds", time.Second: "1 second", time.Millisecond: "a moment",
		90*time.Second + time.Millisecond: "90 seconds",
	} {
		if got := prompt.Duration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestWrong(t *testing.T) {
	for _, test := range []struct {
		q    prompt.Question
		want string
	}{
		{prompt.Question{Left: 2}, ""},
		{prompt.Question{Retry: true}, "Wrong passphrase."},
		{prompt.Question{Retry: true, PIN: true, Left: 1}, "Wrong PIN. One try left."},
		{prompt.Question{Retry: true, PIN: true, Left: 2}, "Wrong PIN. 2 tries left."},
	} {
		if got := test.q.Wrong(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
