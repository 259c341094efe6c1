package tpm

import (
	"testing"

	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func TestDescribe(t *testing.T) {
	relay := tpmtest.Start(t).Relay()
	about, err := newDevice(t, relay.Address(), Options{}).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if about.Manufacturer != "IBM" || about.Vendor != "SW   TPM" || about.Slots != 3 || about.Firmware == "0.0.0.0" {
		t.Errorf("swtpm is %+v", about)
	}
	if n := relay.Total(); n != 1 {
		t.Errorf("%d commands", n)
	}
}
