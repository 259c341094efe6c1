package p11uri

import "testing"

func TestURI(t *testing.T) {
	for got, want := range map[string]string{
		TPM().URI():                         "pkcs11:model=TPM%202.0%20keys;manufacturer=keyringd;serial=1;token=keyringd%20TPM",
		Files().URI():                       "pkcs11:model=Private%20keys;manufacturer=keyringd;serial=2;token=keyringd%20keys",
		Files().Private([]byte{0, 65, 255}): "pkcs11:token=keyringd%20keys;id=%00%41%FF;type=private",
		Token{"a;b&'ü/~", "", ""}.URI():     "pkcs11:model=;manufacturer=keyringd;serial=;token=a%3Bb%26%27%C3%BC%2F~",
	} {
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
