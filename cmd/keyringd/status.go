package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/tpm"
)

const (
	// statusWait is how long `keyringctl status` waits for a TPM that is busy or
	// gone: who asks what is wrong wants an answer.
	statusWait = 2 * time.Second
	// maxSkipped is how many files that were left out are named.
	maxSkipped = 20
	maxReason  = 300
)

// status is what the daemon tells of itself beside its keys.
type status struct {
	sockets sockets
	address string
	device  *tpm.Device // nil: none
	folders *folder.Folders
	vault   *vault
	box     *sandbox
}

// facts returns names and values for Keyring1.Status. It asks the TPM what it
// is, and how many wrong tries are left.
func (s *status) facts(ctx context.Context) map[string]any {
	facts := map[string]any{
		"SSHSocket":   s.sockets.ssh.Addr().String(),
		"TokenSocket": s.sockets.pkcs11[0].Addr().String(),
		"TPM":         s.address,
		"Sandbox":     caller.Sanitize(s.box.fact(), maxReason),
	}
	s.keyrings(facts)
	var skipped []string
	for _, f := range s.folders.Skipped() {
		if !f.Ordinary {
			skipped = append(skipped, caller.Sanitize(f.Path+": "+f.Reason.Error(), maxReason))
		}
	}
	if n := len(skipped); n > 0 {
		facts["LeftOut"] = skipped[:min(n, maxSkipped)]
		facts["FilesLeftOut"] = uint64(n)
	}
	if s.device != nil {
		s.askTPM(ctx, facts)
	}
	return facts
}

func (s *status) askTPM(ctx context.Context, facts map[string]any) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	about, err := s.device.Describe(ctx)
	if err != nil {
		facts["TPMProblem"] = caller.Sanitize(err.Error(), maxReason)
		return
	}
	facts["TPMVendor"] = strings.Join(strings.Fields(about.Manufacturer+" "+about.Vendor+", firmware "+about.Firmware), " ")
	facts["TPMSlots"] = uint64(about.Slots)
	lockout, err := s.device.Lockout(ctx)
	switch {
	case err != nil:
		facts["TPMProblem"] = caller.Sanitize(err.Error(), maxReason)
	case lockout.Locked:
		facts["TPMTriesLeft"] = "none: the TPM takes no PIN" + again(lockout)
	case lockout.Interval == 0:
		facts["TPMTriesLeft"] = "not limited by this TPM"
	default:
		facts["TPMTriesLeft"] = fmt.Sprintf("%d of %d", lockout.Left(), lockout.Max)
		if lockout.Counter > 0 {
			facts["TPMTriesLeft"] = fmt.Sprintf("%d of %d%s", lockout.Left(), lockout.Max, again(lockout))
		}
	}
}

// again says when the TPM gives a try back.
func again(l tpm.Lockout) string {
	if l.Wait() <= 0 {
		return ""
	}
	return ", one more at " + time.Now().Add(l.Wait()).Format("15:04")
}

// keyrings adds what is to be known of the secrets.
func (s *status) keyrings(facts map[string]any) {
	if l := s.sockets.control; l != nil {
		facts["LoginSocket"] = l.Addr().String()
	}
	secrets := s.vault.now()
	if secrets == nil {
		return // they are being opened
	}
	if err := secrets.Unreadable(); err != nil {
		facts["KeyringsProblem"] = caller.Sanitize(err.Error(), maxReason)
		return
	}
	var damage []string
	for _, d := range s.vault.damage() {
		where := d.Collection
		if d.Item != "" {
			where += " item " + d.Item
		}
		damage = append(damage, caller.Sanitize(strings.TrimSpace(where+": "+d.What), maxReason))
	}
	if len(damage) > 0 {
		facts["KeyringDamage"] = damage[:min(len(damage), maxSkipped)]
	}
}
