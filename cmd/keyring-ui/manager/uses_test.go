package manager

import (
	"strings"
	"testing"

	"fyne.io/fyne/v2/test"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/dbus/client"
)

func TestUses(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{kind: placeRecent})
	if got := titles(s.view.(*recentView).browser); got != "mia@work-laptop|git signing|mia@work-laptop" {
		t.Errorf("%q", got)
	}
	s.to(place{kind: placeApprovals})
	s.press("Revoke")
	s.wants("Revoke 1")
	// It follows what happens by itself.
	s.f.mu.Lock()
	s.f.approvals = s.f.approvals[1:]
	s.f.mu.Unlock()
	s.clock.pass(pollTime)
	s.settle()
	if got := titles(s.view.(*approvalsView).browser); got != "git signing" {
		t.Errorf("%q", got)
	}
	s.press("Revoke all")
	s.wants("Revoke 2")
	// Nobody is asked while nobody looks.
	s.Hide()
	s.f.calls = nil
	s.clock.pass(10 * pollTime)
	s.settle()
	if s.f.asked("Approvals") {
		t.Error("asked for what nobody sees")
	}
	s.Show()
	s.clock.pass(pollTime)
	s.settle()
	s.wants("Approvals")
}

func TestSettings(t *testing.T) {
	s := show(t, full(), false)
	s.to(place{kind: placeSettings})
	test.Tap(s.ticks()[1]) // tell me
	s.settle()
	test.Tap(s.ticks()[0]) // every key
	s.settle()
	test.Tap(s.ticks()[3]) // keyrings, when the screen is locked
	s.settle()
	s.to(place{placeKeys, "tpm"})
	s.pick(workID)
	test.Tap(s.ticks()[0])
	s.settle()
	want := []config.Change{
		{Name: config.Notify, Value: true}, {Name: config.Confirm, Value: []string{"*"}},
		{Name: config.LockScreen, Value: []string{config.Forget, config.Keyrings}}, {Name: config.Confirm, Value: []string{"id:" + workID[:16]}},
	}
	if got, want := sprint(s.s.writes), sprint(want); got != want {
		t.Errorf("wrote %v, want %v", got, want)
	}
	// What another rule says of a key is not changed here.
	s.pick("aa01")
	if c := s.ticks()[0]; !c.Checked || !c.Disabled() {
		t.Error("another's rule can be changed here")
	}
}

// The window waits for the daemon, and goes on by itself.
func TestNoDaemon(t *testing.T) {
	f := full()
	f.absent = true
	s := show(t, f, false)
	if !s.says("keyringd is not running") || f.asked("Keys") {
		t.Fatal("it does not say so, or asks who is not there")
	}
	f.tell(client.DaemonBegan, "")
	s.settle()
	if got := titles(s.view.(*keysView).browser); !strings.HasPrefix(got, "mia@work-laptop") {
		t.Errorf("%q", got)
	}
	f.mu.Lock()
	f.keys = f.keys[1:]
	f.mu.Unlock()
	f.tell(client.KeysChanged, "")
	s.settle()
	if got := titles(s.view.(*keysView).browser); strings.HasPrefix(got, "mia@work-laptop") {
		t.Errorf("%q: not as it is", got)
	}
	f.tell(client.DaemonEnded, "")
	s.settle()
	if !s.says("keyringd is not running") {
		t.Error("it does not say that it ended")
	}
}
