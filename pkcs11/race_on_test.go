//go:build race

package pkcs11

// raceEnabled says that memory is the race detector's.
const raceEnabled = true
