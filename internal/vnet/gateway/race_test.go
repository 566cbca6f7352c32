//go:build race

package gateway_test

// raceEnabled: the race detector makes the gateway some twenty times slower.
const raceEnabled = true
