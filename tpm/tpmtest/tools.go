package tpmtest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// toolLimit ends a test whose tool hangs. An RSA key takes a while to find.
const toolLimit = 3 * time.Minute

// SRK is the attributes of the storage root key that key files hang under (H-2
// without adminWithPolicy, with noDA), as tpm2_createprimary wants them. The
// legacy one lacks the two "fixed" ones.
const (
	srkAttributes    = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
	legacyAttributes = "sensitivedataorigin|userwithauth|noda|restricted|decrypt"
)

// ToolEnv is what to add to the environment of a program of the TCG software
// stack (tpm2-tools, tpm2-openssl), so that it finds this TPM through a
// resource manager that only such programs use. It needs the program socat.
func (t *TPM) ToolEnv() []string {
	t.tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tools == nil {
		t.tools = t.rmLocked()
	}
	tcti := t.tools.TCTI()
	return []string{
		"TPM2TOOLS_TCTI=" + tcti,
		"TPM2OPENSSL_TCTI=" + tcti,
		"TSS2_LOG=all+NONE", // its warnings are about what tools then handle
		"LC_ALL=C",
	}
}

// Tool runs a program on this TPM in the folder dir and returns what it writes
// to standard output. The test fails if the program does.
func (t *TPM) Tool(tb testing.TB, dir, name string, args ...string) []byte {
	tb.Helper()
	Require(tb, name, "socat")
	out, diagnosis, err := t.run(dir, name, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, diagnosis)
	}
	return out
}

func (t *TPM) run(dir, name string, args ...string) (out, diagnosis []byte, err error) {
	t.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), t.ToolEnv()...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout = &stdout
	cmd.Stderr = &stderr
	err = cmd.Run()
	return stdout.Bytes(), stderr.Bytes(), err
}

// PersistSRK puts the storage root key of key files at 0x81000001, with
// tpm2-tools, as systemd does at boot.
func (t *TPM) PersistSRK(tb testing.TB) {
	tb.Helper()
	dir := tb.TempDir()
	t.createSRK(tb, dir, srkAttributes)
	t.Tool(tb, dir, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "srk.ctx", "0x81000001")
}

// createSRK leaves a primary key's context in srk.ctx.
func (t *TPM) createSRK(tb testing.TB, dir, attributes string) {
	tb.Helper()
	t.Tool(tb, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-g", "sha256", "-a", attributes, "-c", "srk.ctx")
}

func readFile(tb testing.TB, dir, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
