//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/prompt/pinentry"
)

// An opener is a program that opens a window for a question, as keyringd runs it.
type opener struct {
	name, process string
	prompter      prompt.Prompter
	waits         bool                   // one is started before there is a question
	expects       func() prompt.Prompter // a new one for each question, which is expected; nil: prompter

	mapped, painted, used []time.Duration
	resident              float64 // with the question on the screen
	share                 string
	idle                  float64 // before there is one
	idleShare             string
}

// TestWindow compares how long it takes from a question until its window is on
// the screen, and memory. The programs take turns, so that whatever else the
// machine does is in the way of all of them.
func TestWindow(t *testing.T) {
	dir := t.TempDir()
	// With the flags of `make build`: Fyne is compiled once for all.
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "no_emoji,no_metadata,migrated_fynedo", "-ldflags", "-s -w -X main.version=bench",
		"-o", filepath.Join(dir, "keyring-ui"), "github.com/keyringd/keyringd/cmd/keyring-ui")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building keyring-ui: %v\n%s", err, out)
	}
	s := newScreen(t)
	ask := func(spec string, standby time.Duration) prompt.Prompter {
		p, err := pinentry.New(spec, pinentry.Env{Environ: s.env, Executable: filepath.Join(dir, "keyringd"), Standby: standby})
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := p.(io.Closer); ok {
			t.Cleanup(func() { _ = c.Close() })
		}
		return p
	}
	openers := []*opener{
		{name: "pinentry-gtk-2", process: "pinentry-gtk-2", prompter: ask("pinentry:pinentry-gtk-2", 0)},
		{name: "pinentry-qt", process: "pinentry-qt", prompter: ask("pinentry:pinentry-qt", 0)},
		{name: "keyring-ui, started for the question", process: "keyring-ui", prompter: ask("ui", -1)},
		{name: "keyring-ui, expected since 0.2 s", process: "keyring-ui", expects: func() prompt.Prompter { return ask("ui", time.Hour) }},
		{name: "keyring-ui, kept ready by keyringd", process: "keyring-ui", prompter: ask("ui", time.Hour), waits: true},
	}
	const windows = 11
	for n := range windows + 1 {
		for _, o := range openers {
			o.ask(t, s)
			if n == 0 { // from disk, and what is kept ready was not yet
				o.mapped, o.painted, o.used = nil, nil, nil
			}
		}
	}
	row := table(fmt.Sprintf("A window with a question: X11, openbox, no GPU; median of %d", windows),
		"program", "mapped ms", "max ms", "painted ms", "CPU ms", "RSS MB", "PSS MB", "vs gtk-2")
	half := func(d []time.Duration) float64 { return float64(quantile(d, 0.5)) / 1e6 }
	for _, o := range openers {
		row(o.name, fmt.Sprintf("%.0f", half(o.mapped)), fmt.Sprintf("%.0f", float64(quantile(o.mapped, 1))/1e6), fmt.Sprintf("%.0f", half(o.painted)),
			fmt.Sprintf("%.0f", half(o.used)), fmt.Sprintf("%.0f", o.resident), o.share, ratio(half(o.mapped), half(openers[0].mapped)))
	}
	last := openers[len(openers)-1]
	row("  while it waits, hidden", "-", "-", "-", "-", fmt.Sprintf("%.0f", last.idle), last.idleShare, "-")
}

// roundTrips is what passes between ssh's look at the keys and its wish for a
// signature: the client offers a key and the server takes it, over some network.
const roundTrips = 200 * time.Millisecond

// ask puts a question, takes the figures as soon as there is something to read,
// and takes the question away.
func (o *opener) ask(t *testing.T, s *screen) {
	t.Helper()
	waiting := 0
	if o.waits {
		waiting = child(o.process, true)
	}
	var before time.Duration
	if waiting != 0 {
		before = cpu(t, waiting)
		o.idle, o.idleShare = memory(t, waiting)
	}
	if o.expects != nil {
		o.prompter = o.expects()
		defer o.prompter.(io.Closer).Close()
		o.prompter.(prompt.Expecter).Expect()
		<-time.After(roundTrips)
	}
	s.forget()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	start := time.Now()
	go func() {
		a, err := o.prompter.Prompt(ctx, prompt.Question{
			Kind: prompt.Passphrase, PIN: true, Subject: "work laptop", Caller: "ssh (4711) ← git ← zsh", Reason: "sign in as mia",
			Host: "git.example.org", Fingerprint: "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM", Remember: 10 * time.Minute, Terms: true,
		})
		a.Passphrase.Wipe()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", o.name, err)
		}
		done <- err
	}()
	mapped, painted := s.appears()
	pid := child(o.process, waiting != 0 || o.expects != nil)
	if pid == 0 {
		t.Fatalf("%s has a window and no process", o.name)
	}
	o.mapped, o.painted = append(o.mapped, mapped.Sub(start)), append(o.painted, painted.Sub(start))
	o.used = append(o.used, cpu(t, pid)-before)
	if o.share == "" || waiting != 0 {
		// Once: later another one waits, which shares pages with this one.
		o.resident, o.share = memory(t, pid)
	}
	cancel()
	<-done
	if o.waits {
		rested(t, o.process)
	}
}

// rested returns when the one that waits for the next question is ready: when it
// has stopped using the processor.
func rested(t *testing.T, process string) {
	t.Helper()
	const quiet = 500 * time.Millisecond
	var used time.Duration
	since := time.Now()
	until(t, "one that waits", func() bool {
		pid := child(process, true)
		if pid == 0 {
			return false
		}
		if now := cpu(t, pid); now != used || now == 0 {
			used, since = now, time.Now()
		}
		return time.Since(since) > quiet
	})
}

// child returns the program that this process started for a question, or for the
// next one; 0: there is none.
func child(process string, standby bool) int {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		stat, _ := os.ReadFile(path)
		head, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if _, name, _ := strings.Cut(head, "("); name != process || len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		dir := filepath.Dir(path)
		if line, _ := os.ReadFile(filepath.Join(dir, "cmdline")); strings.Contains(string(line), "--standby") == standby {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	return 0
}
