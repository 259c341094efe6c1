package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/dbus"
	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "keyringctl")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=test", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building keyringctl: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// A house is a bus with a daemon's D-Bus front end on it.
type house struct {
	testing.TB
	bus      *bustest.Bus
	keys     *keyring.Keys
	gate     *keyring.Gate
	server   *dbus.Server
	prompter *keyringtest.FakePrompter
	env      []string
}

func serve(t testing.TB, keys ...keyring.Key) *house {
	t.Helper()
	return serveWith(t, func(*dbus.Server) {}, keys...)
}

// serveWith is serve with something done to the server before it begins.
func serveWith(t testing.TB, before func(*dbus.Server), keys ...keyring.Key) *house {
	t.Helper()
	h := &house{TB: t, bus: bustest.Start(t), prompter: &keyringtest.FakePrompter{}}
	h.gate = keyring.NewGate(h.prompter)
	h.keys = keyring.NewKeys(h.gate)
	h.keys.Replace("test", keys)
	h.server = dbus.New(h.keys, h.gate, slog.New(slog.DiscardHandler))
	h.server.Version = "9.9"
	before(h.server)
	h.server.Status = func(context.Context) map[string]any { return map[string]any{"SSHSocket": "/run/ssh"} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.server.Serve(ctx, h.bus.Address) }()
	t.Cleanup(func() { cancel(); <-done })
	h.env = []string{"DBUS_SESSION_BUS_ADDRESS=" + h.bus.Address, "SSH_AUTH_SOCK=/run/ssh"}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		if _, _, status := h.run("status"); status == 0 {
			return h
		}
		if time.Now().After(end) {
			t.Fatal("the daemon is not on the bus")
		}
	}
}

// run runs keyringctl and returns what it printed and its exit status.
func (h *house) run(args ...string) (out, errs string, status int) {
	h.Helper()
	return runWith(h.TB, h.env, args...)
}

func runWith(t testing.TB, env []string, args ...string) (out, errs string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// must is run where anything but success ends the test.
func (h *house) must(args ...string) string {
	h.Helper()
	out, errs, status := h.run(args...)
	if status != 0 || errs != "" {
		h.Fatalf("keyringctl %q: status %d\n%s", args, status, errs)
	}
	return out
}

func newKey(t testing.TB, label string, paths ...string) *keyringtest.FakeKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyringtest.NewFakeKey(k, keyring.KindTPM, label, paths...)
}

func TestKeyListShowPublic(t *testing.T) {
	work := newKey(t, "mia@work", "/home/mia/.ssh/id_work").Locked("1", nil)
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file := keyringtest.NewFakeKey(signer, keyring.KindFile, "mia@home", "/home/mia/.ssh/id_ed25519")
	file.KeyInfo.Confirm = true
	h := serve(t, file, work)

	lines := strings.Split(strings.TrimSpace(h.must("key", "list")), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[0]), " ") != "LABEL ALGORITHM KIND ASKS FOR FINGERPRINT FILE" {
		t.Fatalf("%q", lines)
	}
	public, err := ssh.NewPublicKey(work.KeyInfo.Public)
	if err != nil {
		t.Fatal(err)
	}
	print := ssh.FingerprintSHA256(public)
	for i, want := range []string{"mia@work ecdsa-p256 tpm PIN " + print + " /home/mia/.ssh/id_work", "mia@home ed25519 file permission SHA256:"} {
		if got := strings.Join(strings.Fields(lines[i+1]), " "); !strings.HasPrefix(got, want) {
			t.Errorf("line %d: %q, want %q", i+1, got, want)
		}
	}
	if at := strings.Index(lines[0], "FINGERPRINT"); at != strings.Index(lines[1], "SHA256:") || at != strings.Index(lines[2], "SHA256:") {
		t.Errorf("columns are not aligned:\n%s", strings.Join(lines, "\n"))
	}
	if strings.Contains(h.must("key", "list"), "\x1b") {
		t.Error("colour where there is no terminal")
	}

	var listed []client.Key
	if err := json.Unmarshal([]byte(h.must("key", "list", "--json")), &listed); err != nil || len(listed) != 2 ||
		listed[0].ID != work.KeyInfo.ID.String() || !listed[0].NeedsAuth || !bytes.Equal(listed[0].PublicKey, public.Marshal()) {
		t.Errorf("%+v: %v", listed, err)
	}

	id := work.KeyInfo.ID.String()
	for _, name := range []string{"mia@work", id, strings.ToUpper(id), id[:8], print, strings.TrimPrefix(print, "SHA256:"), "/home/mia/.ssh/id_work", "/home/mia/../mia/.ssh/id_work", "id_work"} {
		if out := h.must("key", "show", name); !strings.Contains(out, "ID:           "+id+"\n") || !strings.Contains(out, "Asks for:     PIN\n") {
			t.Errorf("show %s:\n%s", name, out)
		}
	}
	var shown client.Key
	if err := json.Unmarshal([]byte(h.must("key", "show", id, "--json")), &shown); err != nil || shown.ID != id {
		t.Errorf("%+v: %v", shown, err)
	}

	line := h.must("key", "public", "mia@work")
	parsed, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || comment != "mia@work" || !bytes.Equal(parsed.Marshal(), public.Marshal()) {
		t.Errorf("%q: %v", line, err)
	}
	if text := h.must("key", "public", "--pem", "mia@work"); !strings.HasPrefix(text, "-----BEGIN PUBLIC KEY-----\n") {
		t.Errorf("%q", text)
	}
	var asJSON map[string]string
	if err := json.Unmarshal([]byte(h.must("key", "public", "mia@work", "--json")), &asJSON); err != nil || asJSON["public"]+"\n" != line {
		t.Errorf("%v: %v", asJSON, err)
	}
}

func TestAmbiguousNameListsTheCandidates(t *testing.T) {
	a, b := newKey(t, "same", "/a/id"), newKey(t, "same", "/b/id")
	h := serve(t, a, b)
	for _, name := range []string{"same", "id"} {
		_, errs, status := h.run("key", "show", name)
		if status != 1 || !strings.Contains(errs, "2 keys are called") || !strings.Contains(errs, a.KeyInfo.ID.String()[:12]) ||
			!strings.Contains(errs, b.KeyInfo.ID.String()[:12]) || !strings.Contains(errs, "\nhint: ") {
			t.Errorf("%s: status %d\n%s", name, status, errs)
		}
	}
	_, errs, status := h.run("key", "show", "other")
	if status != 1 || errs != "keyringctl: there is no key \"other\"\nhint: keyringctl key list shows those that there are\n" {
		t.Errorf("status %d\n%s", status, errs)
	}
}

func TestLabelsCannotSteerTheTerminal(t *testing.T) {
	h := serve(t, newKey(t, "evil\x1b[2J\nid\tx", "/a\x1b[31m"))
	for _, args := range [][]string{{"key", "list"}, {"key", "show", "/a\x1b[31m"}, {"key", "public", "/a\x1b[31m"}} {
		if out := h.must(args...); strings.ContainsAny(out, "\x1b\t") {
			t.Errorf("%q: %q", args, out)
		}
	}
}

func TestLockUnlockApprovals(t *testing.T) {
	k := newKey(t, "k").Locked("1", nil)
	k.KeyInfo.Confirm = true
	free := newKey(t, "free")
	h := serve(t, k, free)
	h.prompter.Always(func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "1"} })
	if out := h.must("unlock"); out != "1 key is unlocked.\n" {
		t.Error(out)
	}
	q := h.prompter.Questions()
	if len(q) != 2 || q[0].Kind != prompt.Confirm || q[1].Kind != prompt.Passphrase || !strings.Contains(q[0].Caller, "keyringctl") {
		t.Errorf("asked %+v", q)
	}
	if out := h.must("unlock", "free", "--json"); strings.TrimSpace(out) != "{\n  \"unlocked\": 1\n}" {
		t.Error(out)
	}
	out := h.must("approvals", "list")
	if !strings.Contains(out, program) || !strings.HasPrefix(out, "ID  KEY  PROGRAM") {
		t.Error(out)
	}
	var list []client.Approval
	if err := json.Unmarshal([]byte(h.must("approvals", "list", "--json")), &list); err != nil || len(list) != 1 || list[0].Key != k.KeyInfo.ID.String() {
		t.Errorf("%+v: %v", list, err)
	}
	if out := h.must("approvals", "revoke", fmt.Sprint(list[0].ID)); out != "1 revoked.\n" {
		t.Error(out)
	}
	if _, errs, status := h.run("approvals", "revoke", fmt.Sprint(list[0].ID)); status != 1 || !strings.Contains(errs, "not found") {
		t.Errorf("status %d: %s", status, errs)
	}
	if out := h.must("approvals", "revoke", "--all", "--json"); !strings.Contains(out, `"revoked": []`) {
		t.Error(out)
	}
	if out := h.must("lock"); !strings.HasPrefix(out, "Locked") {
		t.Error(out)
	}
	h.prompter.Always(func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Err: prompt.ErrDismissed} })
	if _, errs, status := h.run("unlock", "k"); status != 1 || !strings.Contains(errs, "refused by the user") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// TestInterruptTakesTheQuestionAway: Ctrl-C while the user is being asked.
func TestInterruptTakesTheQuestionAway(t *testing.T) {
	h := serve(t, newKey(t, "k").Locked("1", nil))
	h.prompter.Always(func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{When: make(chan struct{})} })
	cmd := exec.Command(program, "unlock")
	cmd.Env = h.env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.prompter.Await(ctx, 1); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if err := h.prompter.Await(ctx, 0); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || errs.String() != "keyringctl: stopped\n" {
		t.Errorf("%v: %q", cmd.ProcessState, errs.String())
	}
}

func TestStatus(t *testing.T) {
	h := serve(t, newKey(t, "k"))
	out := h.must("status")
	for _, want := range []string{"Version:    9.9\n", "Keys:       1\n", "TPM keys:   1\n", "Remember:   10m0s\n", "SSH socket: /run/ssh\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "hint") {
		t.Errorf("a hint where all is well:\n%s", out)
	}
	var status struct {
		Status map[string]any
		Hints  []string
	}
	if err := json.Unmarshal([]byte(h.must("status", "--json")), &status); err != nil || status.Status["Keys"] != 1.0 || len(status.Hints) != 0 {
		t.Errorf("%+v: %v", status, err)
	}
	h.keys.Replace("test", nil)
	h.env[1] = "SSH_AUTH_SOCK=/other"
	if out := h.must("status"); strings.Count(out, "\nhint: ") != 2 || !strings.Contains(out, "export SSH_AUTH_SOCK=/run/ssh") {
		t.Errorf("hints:\n%s", out)
	}
}

func TestWrongUsageAndNoDaemon(t *testing.T) {
	bus := bustest.Start(t)
	on := []string{"DBUS_SESSION_BUS_ADDRESS=" + bus.Address}
	for _, c := range []struct {
		env    []string
		args   []string
		status int
		want   []string
	}{
		{on, nil, 2, []string{"wants a command: approvals, "}},
		{on, []string{"keys"}, 2, []string{`no command "keys"`}},
		{on, []string{"key"}, 2, []string{"wants a command: attest, export-request, import, label, list, new, passwd, public, remove, request, show, verify-attestation, wrap-for"}},
		{on, []string{"key", "lst"}, 2, []string{`no command "lst"`}},
		{on, []string{"key", "show"}, 2, []string{"keyringctl key show: accepts 1 arg"}},
		{on, []string{"key", "list", "--josn"}, 2, []string{"unknown flag: --josn"}},
		{on, []string{"approvals", "revoke"}, 2, []string{"name IDs, or --all"}},
		{on, []string{"approvals", "revoke", "x"}, 2, []string{`"x" is not the ID`}},
		{on, []string{"key", "list"}, 1, []string{"keyringd is not running", "systemctl --user start keyringd"}},
		{on, []string{"status", "--json"}, 1, []string{"keyringd is not running"}},
		{[]string{"XDG_RUNTIME_DIR=/nowhere"}, []string{"lock"}, 1, []string{"no session bus", "/nowhere/bus", "inside your login session"}},
		{on, []string{"lock", "--bus", "tcp:host=x"}, 1, []string{"no session bus", "want unix:path=SOCKET"}},
	} {
		out, errs, status := runWith(t, c.env, c.args...)
		if status != c.status || out != "" || strings.Count(errs, "hint: ") != 1 || !strings.HasPrefix(errs, "keyringctl: ") {
			t.Errorf("%q: status %d, stdout %q, stderr:\n%s", c.args, status, out, errs)
		}
		for _, want := range c.want {
			if !strings.Contains(errs, want) {
				t.Errorf("%q: %q is not in\n%s", c.args, want, errs)
			}
		}
	}
	out, _, status := runWith(t, on, "--version")
	if status != 0 || !strings.Contains(out, "test") {
		t.Errorf("--version: %d %q", status, out)
	}
}

func TestCompletionsAndManual(t *testing.T) {
	h := serve(t, newKey(t, "mia@work"))
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := h.must("completion", shell)
		if !strings.Contains(script, "keyringctl") {
			t.Errorf("%s: %q", shell, script)
		}
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		check := exec.Command(shell, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
	if out, _, _ := h.run("__complete", "key", "show", ""); !strings.HasPrefix(out, "mia@work\tecdsa-p256 SHA256:") {
		t.Errorf("completed %q", out)
	}
	dir := t.TempDir()
	h.must("man", dir)
	pages, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range pages {
		names = append(names, p.Name())
	}
	for _, want := range []string{"keyringctl.1", "keyringctl-key.1", "keyringctl-key-list.1", "keyringctl-approvals-revoke.1"} {
		if !slices.Contains(names, want) {
			t.Errorf("no page %s in %q", want, names)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "keyringctl-key-show.1"))
	if err != nil || !strings.HasPrefix(string(page), ".TH KEYRINGCTL\\-KEY\\-SHOW 1") || !strings.Contains(string(page), "\n.SH OPTIONS OF ALL COMMANDS\n") {
		t.Errorf("%v\n%s", err, page)
	}
	if _, err := exec.LookPath("groff"); err == nil {
		for _, name := range names {
			out, err := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z", filepath.Join(dir, name)).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	}
}

func TestColourOnATerminalOnly(t *testing.T) {
	env := map[string]string{"TERM": "xterm"}
	s := &session{world: world{Getenv: func(n string) string { return env[n] }, Terminal: true}}
	tbl := &table{head: []string{"A", "B"}}
	tbl.add("ü", "")
	if got := tbl.string(s.colour()); got != "\x1b[1mA  B\x1b[0m\nü  -\n" {
		t.Errorf("%q", got)
	}
	env["NO_COLOR"] = "1"
	if s.colour() {
		t.Error("NO_COLOR is not obeyed")
	}
	env["NO_COLOR"], s.Terminal = "", false
	if s.colour() {
		t.Error("colour without a terminal")
	}
}

func TestWords(t *testing.T) {
	for name, want := range map[string]string{"TPMKeys": "TPM keys", "SSHSocket": "SSH socket", "PID": "PID", "Version": "Version",
		"LockoutWait": "Lockout wait", "TPM": "TPM", "RuntimeDir": "Runtime dir", "UseTPM": "Use TPM", "": ""} {
		if got := words(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestListOfAThousand lists them all each time, and tells how long the whole
// process takes; BenchmarkList measures it.
func TestListOfAThousand(t *testing.T) {
	h := serve(t, thousand(t)...)
	var took, busy []time.Duration
	for range 31 {
		cmd := exec.Command(program, "key", "list")
		cmd.Env = h.env
		begin := time.Now()
		out, err := cmd.Output()
		if err != nil || bytes.Count(out, []byte("\n")) != 1001 {
			t.Fatalf("%d lines: %v", bytes.Count(out, []byte("\n")), err)
		}
		took = append(took, time.Since(begin))
		busy = append(busy, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	slices.Sort(took)
	slices.Sort(busy)
	t.Logf("p50 %v, p90 %v; at work for %v", took[15], took[27], busy[15])
}

// thousand returns a thousand TPM keys; making them signs nothing, so that one
// signer serves all.
func thousand(t testing.TB) []keyring.Key {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var keys []keyring.Key
	for i := range 1000 {
		k := keyringtest.NewFakeKey(signer, keyring.KindTPM, fmt.Sprintf("key %d", i), fmt.Sprintf("/home/mia/.ssh/id_%d.tpm", i))
		k.KeyInfo.ID[0], k.KeyInfo.ID[1] = byte(i), byte(i>>8)
		keys = append(keys, k)
	}
	return keys
}
