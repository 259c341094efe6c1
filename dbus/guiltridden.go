package dbus

import (
	"errors"
	"fmt"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// master is a passphrase that came in a call, as a credential whose Value the
// caller wipes.
func (c *call) master(p passed) (keyring.Credential, error) {
	value, err := c.received(p)
	return keyring.Credential{Kind: keyring.SlotPassphrase, Value: value}, err
}

// denied gives a wrong passphrase the name that programs of this interface know.
func denied(err error) error {
	if errors.Is(err, keyring.ErrAuthFailed) {
		return fmt.Errorf("%w: %w", errMaster, err)
	}
	return err
}

// changeWithMaster is ChangeWithMasterPassword.
func (c *call) changeWithMaster(at godbus.ObjectPath, original, master passed) error {
	info, err := c.bus.server.collection(at)
	if err != nil {
		return err
	}
	before, err := c.master(original)
	if err != nil {
		return err
	}
	defer before.Value.Wipe()
	after, err := c.master(master)
	if err != nil {
		return err
	}
	defer after.Value.Wipe()
	return denied(c.bus.server.Secrets.ChangeWith(c.ctx, c.caller, info.ID, before, after))
}

// createWithMaster is CreateWithMasterPassword.
func (c *call) createWithMaster(all properties, master passed) (godbus.ObjectPath, error) {
	label, err := property[string](all, collectionInterface+".Label")
	if err != nil {
		return "", err
	}
	credential, err := c.master(master)
	if err != nil {
		return "", err
	}
	defer credential.Value.Wipe()
	id, err := c.bus.server.Secrets.CreateWith(c.ctx, c.caller, label, "", credential)
	return collectionPath(id), err
}

// unlockWithMaster is UnlockWithMasterPassword.
func (c *call) unlockWithMaster(at godbus.ObjectPath, master passed) error {
	info, err := c.bus.server.collection(at)
	if err != nil {
		return err
	}
	credential, err := c.master(master)
	if err != nil {
		return err
	}
	defer credential.Value.Wipe()
	return denied(c.bus.server.Secrets.UnlockWith(c.ctx, c.caller, info.ID, credential))
}
