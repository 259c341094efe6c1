package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/logtest"
)

// screen starts an X server for the test and returns its display.
func screen(t *testing.T) string {
	t.Helper()
	bustest.Need(t, "Xvfb")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-noreset")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb: %v", err)
	}
	return ":" + strings.TrimSpace(line)
}

// A website gives each visitor who has none a cookie, and notes what cookies
// come back. Chromium encrypts them on disk with its key in the keyring.
type website struct {
	*httptest.Server
	mu     sync.Mutex
	visits []string // the cookie of each
	shown  int
}

func newWebsite(t *testing.T) *website {
	w := &website{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch r.URL.Path {
		case "/":
			value := ""
			if c, err := r.Cookie("visitor"); err == nil {
				value = c.Value
			} else {
				http.SetCookie(out, &http.Cookie{Name: "visitor", Value: fmt.Sprint("v", len(w.visits)), MaxAge: 100000, Path: "/"})
			}
			w.visits = append(w.visits, value)
			out.Header().Set("Content-Type", "text/html")
			_, _ = fmt.Fprint(out, `<script>fetch("/shown")</script>`)
		case "/shown":
			w.shown++
		default:
			out.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *website) seen() (visits []string, shown int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.visits...), w.shown
}

// browse opens a website in Chromium as a person does, closes it when it is
// shown, and returns the cookie that the browser brought.
func (c cabinet) browse(display string, w *website) string {
	c.t.Helper()
	before, shown := w.seen()
	cmd := c.command("chromium", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
		"--disable-component-update", "--disable-dev-shm-usage", "--ozone-platform=x11", "--remote-debugging-pipe", "--password-store=gnome-libsecret",
		"--user-data-dir="+filepath.Join(c.Dir, "browser"), w.URL+"/")
	cmd.Env = c.environ("DISPLAY=" + display)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	control := c.control(cmd)
	var said logtest.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	// Its children hold its output open: they end with it.
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }()
	await(c.t, "page in Chromium", func() bool {
		_, now := w.seen()
		return now > shown
	})
	// Closed in this way it writes its cookies, which a signal does not wait for.
	if _, err := control.WriteString(`{"id":1,"method":"Browser.close"}` + "\x00"); err != nil {
		c.t.Fatal(err)
	}
	_, _ = cmd.Process.Wait()
	visits, _ := w.seen()
	if len(visits) == len(before) {
		c.t.Fatalf("Chromium was not there\n%s", said.String())
	}
	return visits[len(before)]
}

// control gives Chromium the pipes of its debugging protocol and returns the one
// to write to; what comes back is not looked at.
func (c cabinet) control(cmd *exec.Cmd) *os.File {
	c.t.Helper()
	theirIn, in, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	for _, f := range []*os.File{theirIn, in, out, theirOut} {
		c.t.Cleanup(func() { _ = f.Close() })
	}
	return in
}

// safeStorage returns Chromium's key, of which there must be one.
func (c cabinet) safeStorage() string {
	c.t.Helper()
	client := c.open()
	defer client.Close()
	var value string
	unlocked, locked, err := client.Search(map[string]string{"application": "chromium"})
	if err == nil && len(unlocked) == 1 {
		var secret []byte
		secret, err = client.Secret(unlocked[0])
		value = string(secret)
	}
	items, err2 := client.Items("/org/freedesktop/secrets/collection/login")
	if err != nil || err2 != nil || value == "" || len(items) != 1 || len(locked) != 0 {
		c.t.Fatalf("Chromium Safe Storage: %v, in a keyring with %v: %v %v", unlocked, items, err, err2)
	}
	return value
}

// TestChromium has Chromium keep its Safe Storage key in the login keyring: it
// stores it once, finds it again after a restart, and never makes another, not
// even when the user refuses or the keyring cannot be searched.
func TestChromium(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "chromium")
	display := screen(t)
	site := newWebsite(t)
	c := newCabinet(t, "none")
	if got := c.browse(display, site); got != "" {
		t.Fatalf("a new browser brought the cookie %q", got)
	}
	key := c.safeStorage()
	if n := c.Prompts(); n != 1 {
		t.Errorf("%d questions, want one", n)
	}
	const first = "v0"

	c.again("none")
	if !c.locked() {
		t.Fatal("a restarted daemon is not locked")
	}
	before := c.Prompts()
	if got := c.browse(display, site); got != first {
		t.Errorf("after a restart the browser brought the cookie %q, want %q", got, first)
	}
	if n := c.Prompts() - before; n != 1 {
		t.Errorf("%d questions after a restart, want one", n)
	}
	if c.safeStorage() != key {
		t.Fatal("Chromium made itself another key")
	}
	cookies, err := os.ReadFile(filepath.Join(c.Dir, "browser", "Default", "Cookies"))
	if err != nil || !strings.Contains(string(cookies), "visitor") || !strings.Contains(string(cookies), "v11") {
		t.Errorf("the cookie is not encrypted with the key: %v", err)
	}

	for what, spoil := range map[string]func(){
		"the user refuses": func() {
			c.again("none")
			c.Write("pinentry", refuser, 0o700)
		},
		"the index key is lost": func() {
			if err := c.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(c.Dir, "data", "index.key")); err != nil {
				t.Fatal(err)
			}
			c.begin("none")
		},
		"the store cannot be read": func() {
			if err := c.Stop(); err != nil {
				t.Fatal(err)
			}
			hidden(t, filepath.Join(c.Dir, "data"), func() {
				c.begin("none")
				c.browse(display, site)
				if err := c.Stop(); err != nil {
					t.Fatal(err)
				}
			})
			c.begin("none")
		},
	} {
		spoil()
		c.browse(display, site)
		c.Write("pinentry", chooser, 0o700)
		c.again("none")
		if c.safeStorage() != key {
			t.Errorf("%s, and Chromium made itself another key", what)
		}
	}
}

// hidden does something while the databases in a folder hold garbage.
func hidden(t *testing.T, dir string, do func()) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "keyrings.db*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("databases: %v %v", all, err)
	}
	kept := map[string][]byte{}
	for _, path := range all {
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.Repeat("garbage ", 1000)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		kept[path] = data
	}
	do()
	for path, data := range kept {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
