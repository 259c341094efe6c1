package tpmtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// opensslSigns makes OpenSSL read a key file and sign with it.
func opensslSigns(t *testing.T, tpm *TPM, file []byte, pin string) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, "key.pem", file)
	writeFile(t, dir, "digest", make([]byte, 32))
	provider := []string{"-provider", "tpm2", "-provider", "default"}
	key := append(provider, "-passin", "pass:"+pin)
	tpm.Tool(t, dir, "openssl", append([]string{"pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"}, key...)...)
	tpm.Tool(t, dir, "openssl", append([]string{"pkeyutl", "-sign", "-inkey", "key.pem", "-in", "digest", "-out", "sig",
		"-pkeyopt", "digest:sha256"}, append(key, "-propquery", "?provider=tpm2")...)...)
	tpm.Tool(t, dir, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-in", "digest", "-sigfile", "sig",
		"-pkeyopt", "digest:sha256")
}

func TestOpenSSLKeys(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	tpm.PersistSRK(t)
	for _, k := range []struct {
		alg, pin string
		parent   uint32
	}{
		{EC256, "", 0},
		{EC384, "1234", OwnerHierarchy},
		{EC256, "1234", PersistentSRK},
		{RSA2048, "", 0},
	} {
		file := tpm.OpenSSLKey(t, k.alg, k.pin, k.parent)
		if !bytes.Contains(file, []byte("-----BEGIN TSS2 PRIVATE KEY-----")) {
			t.Fatalf("%+v: not a key file: %s", k, file)
		}
		opensslSigns(t, tpm, file, k.pin)
	}
}

// TestToolKey lets tpm2-openssl judge the DER that is written by hand.
func TestToolKey(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	opensslSigns(t, tpm, tpm.ToolKey(t, ToolKey{}), "")
	opensslSigns(t, tpm, tpm.ToolKey(t, ToolKey{PIN: "1234"}), "1234")
}

func TestToolKeyPolicy(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	digest := sha256.Sum256([]byte("stands for a policy"))
	step := PolicyStep{Code: uint32(tpm2.TPMCCPolicyAuthValue), Body: []byte{}}
	file := tpm.ToolKey(t, ToolKey{
		PolicyDigest: digest[:],
		Policy:       []PolicyStep{step},
		AuthPolicy:   []AuthPolicy{{Name: "other", Policy: []PolicyStep{step, step}}},
	})
	block, _ := pem.Decode(file)
	var got struct {
		Type      asn1.ObjectIdentifier
		EmptyAuth bool     `asn1:"explicit,optional,tag:0"`
		Policy    []policy `asn1:"explicit,optional,tag:1"`
		Auth      []struct {
			Name   string   `asn1:"explicit,optional,tag:0,utf8"`
			Policy []policy `asn1:"explicit,tag:1"`
		} `asn1:"explicit,optional,tag:3"`
		Parent          int64
		Public, Private []byte
	}
	if rest, err := asn1.Unmarshal(block.Bytes, &got); err != nil || len(rest) != 0 {
		t.Fatalf("%v, %d bytes left", err, len(rest))
	}
	if !got.EmptyAuth || len(got.Policy) != 1 || got.Policy[0].Code != int(step.Code) ||
		len(got.Auth) != 1 || got.Auth[0].Name != "other" || len(got.Auth[0].Policy) != 2 || got.Parent != 0x40000001 {
		t.Errorf("%+v", got)
	}
	if !bytes.Contains(got.Public, digest[:]) {
		t.Error("the key does not have the policy")
	}
}

type policy struct {
	Code int    `asn1:"explicit,tag:0"`
	Body []byte `asn1:"explicit,tag:1"`
}

func TestImportableKey(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	for _, alg := range []string{EC256, EC384, RSA2048} {
		file, plain := tpm.ImportableKey(t, alg, "1234", 0)
		block, _ := pem.Decode(file)
		var got struct {
			Type            asn1.ObjectIdentifier
			EmptyAuth       bool   `asn1:"explicit,optional,tag:0"`
			Secret          []byte `asn1:"explicit,tag:2"`
			Parent          int64
			Public, Private []byte
		}
		if _, err := asn1.Unmarshal(block.Bytes, &got); err != nil {
			t.Fatal(err)
		}
		// Another tool takes it in under the parent that the file names, and the
		// key signs what the software key's public half verifies.
		dir := t.TempDir()
		writeFile(t, dir, "pub", got.Public)
		writeFile(t, dir, "dup", got.Private)
		writeFile(t, dir, "seed", got.Secret)
		writeFile(t, dir, "plain.pem", plain)
		writeFile(t, dir, "message", []byte("message"))
		tpm.createSRK(t, dir, srkAttributes)
		tpm.Tool(t, dir, "tpm2_import", "-Q", "-C", "srk.ctx", "-u", "pub", "-i", "dup", "-s", "seed", "-r", "priv")
		tpm.Tool(t, dir, "tpm2_load", "-Q", "-C", "srk.ctx", "-u", "pub", "-r", "priv", "-c", "key.ctx")
		tpm.Tool(t, dir, "tpm2_sign", "-Q", "-c", "key.ctx", "-p", "1234", "-g", "sha256", "-f", "plain", "-o", "sig", "message")
		tpm.Tool(t, dir, "openssl", "dgst", "-sha256", "-prverify", "plain.pem", "-signature", "sig", "message")
	}
}

func TestLegacyKey(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	block, _ := pem.Decode(tpm.LegacyKey(t, ""))
	if block.Type != "TSS2 KEY BLOB" {
		t.Errorf("type %q", block.Type)
	}
	var got struct {
		Type      asn1.ObjectIdentifier
		EmptyAuth bool   `asn1:"explicit,optional,tag:0"`
		Parent    int    `asn1:"explicit,optional,tag:1"`
		Public    []byte `asn1:"explicit,optional,tag:2"`
		Private   []byte
	}
	if rest, err := asn1.Unmarshal(block.Bytes, &got); err != nil || len(rest) != 0 {
		t.Fatalf("%v, %d bytes left", err, len(rest))
	}
	if !got.Type.Equal(asn1.ObjectIdentifier{2, 23, 133, 10, 2}) || !got.EmptyAuth || got.Parent != 0x40000001 {
		t.Errorf("%+v", got)
	}
	// It hangs under the old root key and not under the new one.
	dir := t.TempDir()
	writeFile(t, dir, "pub", got.Public)
	writeFile(t, dir, "priv", got.Private)
	tpm.createSRK(t, dir, legacyAttributes)
	tpm.Tool(t, dir, "tpm2_load", "-Q", "-C", "srk.ctx", "-u", "pub", "-r", "priv", "-c", "key.ctx")
	tpm.createSRK(t, dir, srkAttributes)
	if _, _, err := tpm.run(dir, "tpm2_load", "-Q", "-C", "srk.ctx", "-u", "pub", "-r", "priv", "-c", "key.ctx"); err == nil {
		t.Error("it hangs under today's root key too")
	}
}

func TestPersistSRK(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	tpm.PersistSRK(t)
	l := dial(t, tpm.Address())
	persistent, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(PersistentSRK)}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	primary, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: h2}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(persistent.Name.Buffer, primary.Name.Buffer) {
		t.Errorf("persistent %x, made from the template %x", persistent.Name.Buffer, primary.Name.Buffer)
	}
	flush(t, l, primary.ObjectHandle)
}

func TestToolsWorkWhileTheTPMIsHeld(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	raw := dial(t, tpm.Address())
	key := resident(t, raw)
	rm := dial(t, tpm.ResourceManager().Address())
	key2 := resident(t, rm)
	tpm.OpenSSLKey(t, EC256, "", 0)
	if err := sign(raw, key, tpm2.PasswordAuth(nil)); err != nil {
		t.Error("the key held directly:", err)
	}
	if err := sign(rm, key2, tpm2.PasswordAuth(nil)); err != nil {
		t.Error("the key held through the resource manager:", err)
	}
}
