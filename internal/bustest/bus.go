// Package bustest runs a private message bus, the real dbus-daemon, for a test.
package bustest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Bus is a running dbus-daemon with a socket of its own. Its methods are for
// one goroutine.
type Bus struct {
	Address string // for DBUS_SESSION_BUS_ADDRESS
	Socket  string

	tb     testing.TB
	config string
	cmd    *exec.Cmd
}

// Start starts a bus as a login session has one, and ends it with the test. It
// skips the test where there is no dbus-daemon, or fails it if
// KEYRINGD_TEST_REQUIRE is 1.
func Start(tb testing.TB) *Bus {
	tb.Helper()
	Need(tb, "dbus-daemon")
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &Bus{tb: tb, Socket: filepath.Join(dir, "bus"), config: filepath.Join(dir, "conf")}
	b.Address = "unix:path=" + b.Socket
	if err := os.WriteFile(b.config, fmt.Appendf(nil, config, b.Address), 0o600); err != nil {
		tb.Fatal(err)
	}
	b.Restart()
	tb.Cleanup(b.Kill)
	return b
}

// Need skips or fails the test if a program is missing; see Missing.
func Need(tb testing.TB, program string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	Missing(tb, program)
}

// Missing skips the test for want of something, or fails it where everything
// must be there: if KEYRINGD_TEST_REQUIRE is 1.
func Missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("KEYRINGD_TEST_REQUIRE") == "1" {
		tb.Fatalf("%s is missing", what)
	}
	tb.Skipf("%s is missing", what)
}

// config is a session bus as distributions set it up, limits included.
const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="max_incoming_bytes">1000000000</limit>
  <limit name="max_outgoing_bytes">1000000000</limit>
  <limit name="max_message_size">1000000000</limit>
  <limit name="service_start_timeout">120000</limit>
  <limit name="auth_timeout">240000</limit>
  <limit name="max_completed_connections">100000</limit>
  <limit name="max_incomplete_connections">10000</limit>
  <limit name="max_connections_per_user">100000</limit>
  <limit name="max_names_per_connection">50000</limit>
  <limit name="max_match_rules_per_connection">50000</limit>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
`

// Kill ends the bus at once, as a crash does.
func (b *Bus) Kill() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
	b.cmd = nil
}

// Restart ends the bus if it runs, and starts it on the same socket. It returns
// when the bus takes connections.
func (b *Bus) Restart() {
	b.tb.Helper()
	b.Kill()
	_ = os.Remove(b.Socket)
	cmd := exec.Command("dbus-daemon", "--config-file="+b.config, "--nofork", "--nopidfile", "--print-address=1")
	var said strings.Builder // shown only if it does not start: it warns of limits that it may not raise
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.tb.Fatal(err)
	}
	b.cmd = cmd
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, b.Address) {
		b.Kill() // after which nobody writes to said
		b.tb.Fatalf("dbus-daemon said %q: %v\n%s", line, err, said.String())
	}
}
