//go:build !race

package agent

// raceEnabled: the race detector costs memory of its own.
const raceEnabled = false
