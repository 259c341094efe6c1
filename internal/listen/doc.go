// Package listen opens the unix sockets that a user's daemon serves, and runs
// their accept loops: [Unix] makes a socket that only its user can reach,
// [Inherited] takes those that the service manager opened, [Serve] accepts.
//
// It deliberately knows no protocol.
package listen
