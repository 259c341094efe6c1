package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
)

// TestPythonClients has the libraries of Python's programs and of GNOME's store
// secrets, and find them after a restart: one prompt for each keyring, a no that
// loses nothing, and no secret under another's name.
func TestPythonClients(t *testing.T) {
	t.Parallel()
	for _, client := range []struct {
		script, needs string
		prompts       int // to find everything again
		refused       bool
	}{
		{"secrets_storage.py", "import secretstorage", 2, true},
		{"secrets_keyring.py", "import keyring, secretstorage", 1, false},
		{"secrets_libsecret.py", "import gi; gi.require_version('Secret', '1'); from gi.repository import Secret", 1, true},
	} {
		t.Run(client.script, func(t *testing.T) {
			t.Parallel()
			needPython(t, client.needs)
			c := newCabinet(t, "none")
			c.python(client.script, "store")
			c.again("none")
			if client.refused {
				c.Write("pinentry", refuser, 0o700)
				c.python(client.script, "refused")
				c.Write("pinentry", chooser, 0o700)
			}
			before := c.Prompts()
			c.python(client.script, "find")
			if n := c.Prompts() - before; n != client.prompts {
				t.Errorf("%d questions, want %d", n, client.prompts)
			}
			c.python(client.script, "drop")
			c.again("none")
			if n := len(c.listed()); n > 1 {
				t.Errorf("%d items are left", n)
			}
		})
	}
}

// refuser is a pinentry at which the user always closes the window.
const refuser = `#!/bin/sh
echo "OK ready"
while IFS= read -r line; do
	case $line in
	GETPIN*|CONFIRM*) echo "ERR 83886179 cancelled" ;;
	BYE*) echo OK; exit 0 ;;
	*) echo OK ;;
	esac
done
`

// listed are the paths of all items in the login keyring.
func (c cabinet) listed() []string {
	c.t.Helper()
	items, err := c.open().Items("/org/freedesktop/secrets/collection/login")
	if err != nil {
		c.t.Fatal(err)
	}
	var paths []string
	for _, i := range items {
		paths = append(paths, string(i))
	}
	return paths
}

// TestGoClients runs the own tests of the libraries that Go programs keep their
// passwords with. `make deps` fetches them; nothing is fetched here.
func TestGoClients(t *testing.T) {
	t.Parallel()
	for _, client := range []struct {
		module, tests string
		want          int // how many of them there are, at least
	}{
		{"github.com/zalando/go-keyring", "^Test(Set|Get|Delete)", 11},
		{"github.com/99designs/keyring", "LibSecret", 6},
	} {
		t.Run(filepath.Base(client.module), func(t *testing.T) {
			t.Parallel()
			bustest.Need(t, "go")
			binary := filepath.Join(t.TempDir(), "client.test")
			build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, client.module)
			build.Dir = filepath.Join("..", "tools", "clients")
			build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOPROXY=off", "GOFLAGS=-mod=readonly", "GOWORK=off")
			out, err := build.CombinedOutput()
			lacks(t, err != nil, client.module+", which `make deps` fetches: "+string(out))

			c := newCabinet(t, "none")
			for _, state := range []string{"new", "unlocked", "locked"} {
				if state == "locked" {
					c.again("none")
				}
				cmd := c.command(binary, "-test.run", client.tests, "-test.v", "-test.count=1")
				cmd.Env = append(cmd.Env, "GITHUB_ACTIONS=") // where one of them would skip all
				out, err := cmd.CombinedOutput()
				passed := len(regexp.MustCompile(`(?m)^--- PASS`).FindAll(out, -1))
				if err != nil || passed < client.want {
					t.Fatalf("%s keyring: %v, %d tests passed, want %d\n%s", state, err, passed, client.want, out)
				}
			}
		})
	}
}
