// Package clients names the programs whose tests are run against keyringd.
package clients

import (
	_ "github.com/99designs/keyring"  // aws-vault and others
	_ "github.com/zalando/go-keyring" // gh, kubelogin and others
)
