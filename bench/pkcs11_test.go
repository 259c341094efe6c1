//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// A module is a PKCS#11 module with one P-256 key behind it.
type module struct {
	name, path string
	pin        string // for C_Login; empty: none
	env        []string
	commands   counted // of the TPM behind it; nil: none
}

// tokenPIN is the user's where a token needs a login.
const tokenPIN = "12345678"

func (m *module) run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), m.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s, %s %s: %v\n%s", m.name, name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sign signs n times in one process and returns what module/test/bench.c prints,
// in microseconds.
func (m *module) sign(tb testing.TB, bench string, n int) map[string]float64 {
	tb.Helper()
	args := []string{m.path, strconv.Itoa(n)}
	if m.pin != "" {
		args = append(args, m.pin)
	}
	numbers := map[string]float64{}
	for line := range strings.Lines(m.run(tb, bench, args...)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			numbers[name], _ = strconv.ParseFloat(value, 64) // what is no number is another's warning
		}
	}
	return numbers
}

// perSignature is how many TPM commands one more C_Sign costs.
func (m *module) perSignature(tb testing.TB, bench string) float64 {
	const few, many = 20, 120
	count := func(n int) int {
		m.commands.Reset()
		m.sign(tb, bench, n)
		return m.commands.Total()
	}
	return float64(count(many)-count(few)) / (many - few)
}

// list runs pkcs11-tool -O and returns how long the whole process takes.
func (m *module) list(tb testing.TB) time.Duration {
	tb.Helper()
	start := time.Now()
	m.run(tb, "pkcs11-tool", "--module", m.path, "-O")
	return time.Since(start)
}

func library(tb testing.TB, pattern string) string {
	tb.Helper()
	found, _ := filepath.Glob(pattern)
	if len(found) == 0 {
		tb.Fatalf("%s is not installed", pattern)
	}
	return found[0]
}

// ours returns our module with a running keyringd behind it.
func ours(tb testing.TB, name, so, pin string, key []byte, tpm string) *module {
	s := daemontest.New(tb)
	s.Key("key", key)
	s.Answer(pin)
	s.Start(tpm, "--remember", "1h")
	return &module{name: name, path: so, env: []string{"KEYRINGD_PKCS11_SOCKET=" + filepath.Join(filepath.Dir(s.Socket), "pkcs11")}}
}

func tpm2pkcs11(tb testing.TB, sim *tpmtest.TPM) *module {
	rm := sim.ResourceManager() // without one it leaves the TPM full of its objects
	m := &module{
		name: "tpm2-pkcs11, TPM key, PIN", path: library(tb, "/usr/lib/*/pkcs11/libtpm2_pkcs11.so*"), pin: tokenPIN, commands: rm,
		env: []string{"TPM2_PKCS11_STORE=" + tb.TempDir(), "TPM2_PKCS11_TCTI=" + rm.TCTI(), "TPM2TOOLS_TCTI=" + rm.TCTI(), "TSS2_LOG=all+none"},
	}
	store := strings.TrimPrefix(m.env[0], "TPM2_PKCS11_STORE=")
	m.run(tb, "tpm2_ptool", "init", "--path", store)
	m.run(tb, "tpm2_ptool", "addtoken", "--path", store, "--pid=1", "--label=bench", "--sopin="+tokenPIN, "--userpin="+tokenPIN)
	m.run(tb, "tpm2_ptool", "addkey", "--path", store, "--algorithm=ecc256", "--label=bench", "--userpin="+tokenPIN, "--key-label=key")
	return m
}

func softHSM(tb testing.TB) *module {
	dir := tb.TempDir()
	conf := filepath.Join(dir, "conf")
	text := "directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	m := &module{
		name: "SoftHSM, key in memory", path: library(tb, "/usr/lib/softhsm/libsofthsm2.so"), pin: tokenPIN,
		env: []string{"SOFTHSM2_CONF=" + conf},
	}
	m.run(tb, "softhsm2-util", "--init-token", "--free", "--label", "bench", "--so-pin", tokenPIN, "--pin", tokenPIN)
	m.run(tb, "pkcs11-tool", "--module", m.path, "--login", "--pin", tokenPIN, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "key")
	return m
}

// TestPKCS11 compares modules: ours and tpm2-pkcs11 on the same software TPM, each
// behind a relay that does what the kernel's resource manager does, and SoftHSM.
func TestPKCS11(t *testing.T) {
	dir := t.TempDir()
	so, bench := filepath.Join(dir, "keyringd-pkcs11.so"), filepath.Join(dir, "bench")
	build := exec.Command("make", "-s", "-C", "../pkcs11/module", "BUILD="+dir, "OUT="+so, so, bench)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	other := tpm2pkcs11(t, sim)
	plain, pinned := sim.OpenSSLKey(t, "EC:P-256", "", 0), sim.OpenSSLKey(t, "EC:P-256", tokenPIN, 0)
	soft, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256").Output()
	if err != nil {
		t.Fatal(err)
	}
	with := func(name, pin string, key []byte) *module {
		rm := sim.ResourceManager()
		m := ours(t, name, so, pin, key, rm.Address().String())
		m.commands = rm
		return m
	}
	modules := []func() *module{
		func() *module { return other },
		func() *module { return with("keyringd, TPM key, PIN", tokenPIN, pinned) },
		func() *module { return with("keyringd, TPM key, no PIN", "", plain) },
		func() *module { return softHSM(t) },
		func() *module { return ours(t, "keyringd, key in software", so, "", soft, "none") },
	}
	row := table("PKCS#11: P-256, C_SignInit and C_Sign in one process; pkcs11-tool -O as a whole",
		"module", "sign p50 ms", "sign p99 ms", "commands/sign", "commands to list", "list p50 ms", "load+init ms", "vs tpm2-pkcs11")
	theirs := 0.0
	for i, make := range modules {
		m := make()
		if m.pin == "" {
			m.sign(t, bench, 1) // the PIN is asked for once, and the key loaded
		}
		n := m.sign(t, bench, rounds)
		if i == 0 {
			theirs = n["sign_median"]
		}
		var lists []time.Duration
		for range 20 {
			lists = append(lists, m.list(t))
		}
		each, listing := "-", "-"
		if m.commands != nil {
			each = fmt.Sprintf("%.2f", m.perSignature(t, bench))
			m.commands.Reset()
			m.list(t)
			listing = strconv.Itoa(m.commands.Total())
		}
		row(m.name, fmt.Sprintf("%.3f", n["sign_median"]/1e3), fmt.Sprintf("%.3f", n["sign_p99"]/1e3), each, listing,
			ms(quantile(lists, 0.5)), fmt.Sprintf("%.3f", n["load_median"]/1e3), ratio(n["sign_median"], theirs))
	}
}
