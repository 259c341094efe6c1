// Package bench measures keyringd side by side with the ssh-agent and the
// tpm2-openssl that are installed, in one run, and prints a table. It has tests
// only, behind the build tag bench: `make bench` runs them. Times differ from
// run to run and are never a test's pass or fail; counts are, in the tests of
// the packages that promise them.
package bench
