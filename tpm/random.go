package tpm

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// randomChunk is what every TPM gives in one answer: the size of its largest
// digest, which is SHA-256's at least. Part 3, "TPM2_GetRandom".
const randomChunk = 32

// Random fills b with random numbers of the TPM's and of the kernel's, combined
// so that they are as good as the better of both, and worth nothing to who has
// listened in on the bus. It takes one command for 32 bytes, and lets others
// have the TPM in between. After an error b is of no use.
func (d *Device) Random(ctx context.Context, b []byte) error {
	_, _ = rand.Read(b)
	for len(b) > 0 {
		var got []byte
		err := d.use(ctx, d.commons(), func(_ context.Context, s *space) error {
			rsp, err := tpm2.GetRandom{BytesRequested: uint16(min(len(b), randomChunk))}.Execute(s)
			if err == nil {
				got = rsp.RandomBytes.Buffer
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("random numbers: %w", err)
		}
		if len(got) == 0 || len(got) > len(b) {
			return fmt.Errorf("%w: %d random bytes", ErrUnavailable, len(got))
		}
		subtle.XORBytes(b, b, got)
		b = b[len(got):]
	}
	return nil
}
