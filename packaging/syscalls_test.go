package packaging

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
)

// allowed are the system calls of a SystemCallFilter=, groups expanded.
func allowed(t *testing.T, filter string) map[string]bool {
	t.Helper()
	groups := map[string][]string{}
	group := ""
	for in := bufio.NewScanner(strings.NewReader(run(t, nil, "systemd-analyze", "syscall-filter"))); in.Scan(); {
		line := in.Text()
		switch {
		case strings.HasPrefix(line, "@"):
			group = line
		case strings.HasPrefix(line, "    ") && !strings.HasPrefix(strings.TrimSpace(line), "#"):
			groups[group] = append(groups[group], strings.TrimSpace(line))
		}
	}
	all := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if !strings.HasPrefix(name, "@") {
			all[name] = true
			return
		}
		if groups[name] == nil {
			t.Errorf("systemd knows no group %s", name)
		}
		for _, n := range groups[name] {
			add(n)
		}
	}
	add("@default") // always allowed, systemd.exec(5)
	for _, name := range strings.Fields(filter) {
		add(name)
	}
	return all
}

// TestUnitAllowsWhatTheDaemonDoes watches the daemon's system calls from its
// start over an agent's request to its end, and compares them with
// what the unit lets it do: the service manager of a user is not there in tests.
func TestUnitAllowsWhatTheDaemonDoes(t *testing.T) {
	bustest.Need(t, "strace")
	bustest.Need(t, "systemd-analyze")
	prefix := install(t)
	unit, err := os.ReadFile(prefix + "/lib/systemd/user/keyringd.service")
	if err != nil {
		t.Fatal(err)
	}
	setting := func(name string) string {
		m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(unit)
		if m == nil {
			t.Fatalf("the unit has no %s", name)
		}
		return string(m[1])
	}
	may, families := allowed(t, setting("SystemCallFilter")), strings.Fields(setting("RestrictAddressFamilies"))

	bus := bustest.Start(t)
	dir, env := home(t)
	trace := filepath.Join(dir, "trace")
	cmd := exec.Command("strace", "-f", "-o", trace, prefix+"/bin/keyringd", "--bus", bus.Address)
	cmd.Env = env
	begin(t, cmd)
	socket := filepath.Join(dir, "run", "keyringd", "ssh")
	c := dial(t, socket)
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{0, 0, 0, 1, 11}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := regexp.MustCompile(`(?m)^\d+ +\+\+\+ (exited with 0|killed).*\+\+\+$`)
	var text []byte
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !ended.Match(text); {
		select {
		case <-tick.C:
			text, _ = os.ReadFile(trace)
		case <-end:
			t.Fatal("keyringd does not end")
		}
	}
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\(`).FindAllSubmatch(text, -1) {
		seen[string(m[1])] = true
	}
	if len(seen) < 20 {
		t.Errorf("only %d system calls were seen", len(seen))
	}
	for name := range seen {
		if !may[name] {
			t.Errorf("the unit does not allow %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +socket\((AF_[A-Z0-9]+)`).FindAllSubmatch(text, -1) {
		if !slices.Contains(families, string(m[1])) {
			t.Errorf("the unit does not allow sockets of %s", m[1])
		}
	}
	if may["ptrace"] || may["mount"] || may["reboot"] {
		t.Error("the unit allows what no keyring does")
	}
}
