// Package bench measures keyringd side by side with what else does the same and
// is installed: ssh-agent, tpm2-openssl, tpm2-pkcs11, SoftHSM, gnome-keyring and
// the pinentry programs, in one run, and prints a table for each. It has tests
// only, behind the build tag bench: `make bench` runs them. Times differ from
// run to run and are never a test's pass or fail; counts are, in the tests of
// the packages that promise them.
package bench
