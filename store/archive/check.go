package archive

import (
	"bytes"
	"encoding/json"
)

// Check wants data to look like an archive from its begin to its end, as far as
// can be told without the passphrase. An error is an ErrFormat.
func Check(data []byte) error {
	if bytes.HasPrefix(data, []byte(magic)) && len(data) >= headerSize {
		return nil
	}
	var head struct {
		Format string `json:"format"`
	}
	if !json.Valid(data) || json.Unmarshal(data, &head) != nil || head.Format != contentFormat {
		return ErrFormat
	}
	return nil
}
