package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/dbus/loginsession"
	"github.com/keyringd/keyringd/dbus/notify"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
)

// A session carries out what the login session's events mean for what the
// daemon holds.
type session struct {
	*daemon
	gate   *keyring.Gate
	vault  *vault
	agent  *agent.Server
	device *tpm.Device // nil: none
}

// systemBus is the address of the system's bus.
func (d *daemon) systemBus() string { return loginsession.SystemAddress(d.env.Getenv) }

// watch follows the login session until ctx ends.
func (s *session) watch(ctx context.Context) {
	if s.Bus == "none" {
		return
	}
	err := loginsession.Watch(ctx, loginsession.Options{
		SystemBus: s.systemBus(), SessionBus: s.busAddress(), UID: s.env.UID, Log: s.log,
	}, loginsession.Events{
		Locked: func() { s.take(ctx, "the screen was locked", s.current.Load().Lock.Screen) },
		Idle: func(idle bool) {
			if idle {
				s.take(ctx, "the session is idle", s.current.Load().Lock.Idle)
			}
		},
		Sleep: func() { s.take(ctx, "the machine goes to sleep", s.current.Load().Lock.Sleep) },
		Resumed: func() {
			s.agent.Expire()
			if s.device != nil {
				s.device.Forget() // what was loaded is gone, or from before
			}
		},
		LoggedOut: func() {
			s.take(ctx, "the user logged out", lockActions{Forget: true, Keyrings: true})
			s.agent.DropAdded()
		},
	})
	if ctx.Err() == nil {
		s.log.Warn("screen lock, sleep and logout are not noticed", "err", err)
	}
}

// take takes away what an event says.
func (s *session) take(ctx context.Context, why string, what lockActions) {
	if what.Forget {
		s.gate.Lock()
	}
	if secrets := s.vault.now(); what.Keyrings && secrets != nil {
		if err := secrets.LockForSleep(ctx, keyring.Caller{FrontEnd: "login session", Process: "the login session"}); err != nil {
			s.log.Error("not every keyring was locked", "why", why, "err", err)
		}
	}
	if what.Forget || what.Keyrings {
		s.log.Info("locked", "why", why, "forgotten", what.Forget, "keyrings", what.Keyrings)
	}
}

// signals follows the signals that change something: SIGUSR1 drops the keys that
// ssh-add brought, SIGHUP reads config.toml again.
func (s *session) signals(ctx context.Context, keys *keyring.Keys) {
	drop := make(chan os.Signal, 1)
	signal.Notify(drop, syscall.SIGUSR1)
	defer signal.Stop(drop)
	done := make(chan struct{})
	go func() {
		defer close(done)
		source{s.env, s.args}.follow(ctx, hangups(), s.settings, s.log, func(now settings) {
			s.current.Store(&now)
			s.level.Set(now.LogLevel)
			s.gate.SetRemember(now.Remember)
			keys.Refresh() // for what is to be confirmed
		})
	}()
	defer func() { <-done }()
	for {
		select {
		case <-drop:
			s.agent.DropAdded()
			s.log.Info("the keys that were added are dropped", "why", "SIGUSR1")
		case <-ctx.Done():
			return
		}
	}
}

// notifier tells the user of each use of a key, if that is the setting. What the
// user was asked about is known already, and what failed is the asker's to tell.
func (d *daemon) notifier(gate *keyring.Gate) *notify.Notifier {
	n := notify.New(d.busAddress(), d.log)
	gate.Notify = func(u keyring.Use, err error) {
		if err != nil || !d.current.Load().Notify {
			return
		}
		lines := []string{u.Caller.String()}
		if u.Reason != "" {
			lines = append(lines, u.Reason)
		}
		if u.Host != "" {
			lines = append(lines, "Host: "+u.Host)
		}
		n.Show(notify.Text{Title: u.Subject + " was used", Body: strings.Join(lines, "\n")})
	}
	return n
}
