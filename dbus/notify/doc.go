// Package notify tells the user of things that need no answer, by the desktop's
// notifications (Desktop Notifications Specification 1.2).
//
// A [Notifier] shows one text after another; what comes while it is busy or too
// fast is counted, and the next one says how much was left out. It deliberately
// never waits and never fails: a desktop that has no notifications shows none.
package notify
