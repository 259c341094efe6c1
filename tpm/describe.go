package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// A Description is what a TPM says of itself.
type Description struct {
	Manufacturer string // four letters of the TCG's vendor registry: "INTC"
	Vendor       string // the vendor's own words; may be empty
	Firmware     string // version, in four numbers
	Slots        int    // objects that it holds at least at the same time
}

// The properties that are read: Part 2, "TPM_PT". They lie beside one another.
const (
	firstFixed = uint32(tpm2.TPMPTManufacturer)
	numFixed   = uint32(tpm2.TPMPTHRTransientMin) - firstFixed + 1
)

// Describe asks the TPM what it is. It takes one command.
func (d *Device) Describe(ctx context.Context) (Description, error) {
	var about Description
	err := d.use(ctx, d.commons(), func(_ context.Context, s *space) error {
		rsp, err := tpm2.GetCapability{
			Capability:    tpm2.TPMCapTPMProperties,
			Property:      firstFixed,
			PropertyCount: numFixed,
		}.Execute(s)
		if err != nil {
			return fmt.Errorf("read what the TPM is: %w", err)
		}
		props, err := rsp.CapabilityData.Data.TPMProperties()
		if err != nil {
			return fmt.Errorf("read what the TPM is: %w", err)
		}
		about = describe(props.TPMProperty)
		return nil
	})
	return about, err
}

func describe(props []tpm2.TPMSTaggedProperty) Description {
	var about Description
	var firmware [2]uint32
	for _, p := range props {
		switch p.Property {
		case tpm2.TPMPTManufacturer:
			about.Manufacturer = letters(p.Value)
		case tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString2, tpm2.TPMPTVendorString3, tpm2.TPMPTVendorString4:
			about.Vendor += letters(p.Value)
		case tpm2.TPMPTFirmwareVersion1:
			firmware[0] = p.Value
		case tpm2.TPMPTFirmwareVersion2:
			firmware[1] = p.Value
		case tpm2.TPMPTHRTransientMin:
			about.Slots = int(p.Value)
		}
	}
	about.Firmware = fmt.Sprintf("%d.%d.%d.%d", firmware[0]>>16, firmware[0]&0xFFFF, firmware[1]>>16, firmware[1]&0xFFFF)
	about.Vendor = strings.TrimSpace(about.Vendor)
	return about
}

// letters decodes up to four ASCII letters; what is none is left out.
func letters(v uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b[:]))
}
