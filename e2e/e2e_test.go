// Package e2e runs the built keyringd as its users do: with key files that
// other tools made, a software TPM, OpenSSH's clients and server, and git.
package e2e

import (
	"os"
	"testing"

	"github.com/keyringd/keyringd/internal/daemontest"
)

func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }
