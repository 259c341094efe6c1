package dbus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"math/big"
	"slices"
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/transfer"
	"github.com/keyringd/keyringd/internal/logtest"
)

// dh opens an encrypted session as the specification says, and returns its key.
func (u *user) dh() (at path, block cipher.Block) {
	u.t.Helper()
	p, _ := new(big.Int).SetString("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"+
		"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF", 16)
	x := big.NewInt(0x1234567890abcdef)
	public := new(big.Int).Exp(big.NewInt(2), x, p).Bytes()
	var out godbus.Variant
	u.ok(u.call(secretsPath, serviceInterface+".OpenSession", transfer.DH, godbus.MakeVariant(public)), &out, &at)
	shared := new(big.Int).Exp(new(big.Int).SetBytes(out.Value().([]byte)), x, p).FillBytes(make([]byte, 128))
	key, err := hkdf.Key(sha256.New, shared, nil, "", 16)
	if err != nil {
		u.t.Fatal(err)
	}
	if block, err = aes.NewCipher(key); err != nil {
		u.t.Fatal(err)
	}
	return at, block
}

// TestEncryptedSession: what is stored in one reads the same in the other.
func TestEncryptedSession(t *testing.T) {
	u := serveLogin(t).user()
	session, block := u.dh()
	iv := []byte("0123456789abcdef")
	value := []byte("pa\x00sswörd\x06\x06\x06\x06\x06\x06")
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(value, value)
	var item, prompt path
	u.ok(u.call(defaultPath, collectionInterface+".CreateItem", itemProps("x", nil), passed{session, iv, value, "text/plain"}, false), &item, &prompt)
	if p := u.secret(item); string(p.Value) != "pa\x00sswörd" || p.Session != u.session || len(p.Parameters) != 0 {
		t.Errorf("plain: %+v", p)
	}
	var ivs [][]byte
	for range 3 {
		var p passed
		u.ok(u.call(item, itemInterface+".GetSecret", session), &p)
		plain := slices.Clone(p.Value)
		cipher.NewCBCDecrypter(block, p.Parameters).CryptBlocks(plain, plain)
		if string(plain) != "pa\x00sswörd\x06\x06\x06\x06\x06\x06" || p.Session != session {
			t.Errorf("encrypted: %q, %+v", plain, p)
		}
		if slices.ContainsFunc(ivs, func(b []byte) bool { return slices.Equal(b, p.Parameters) }) {
			t.Error("the same initialization vector twice")
		}
		ivs = append(ivs, p.Parameters)
	}
	var secrets map[path]passed
	u.ok(u.call(secretsPath, serviceInterface+".GetSecrets", []path{item, item, defaultPath, item + "0"}, session), &secrets)
	if len(secrets) != 1 || len(secrets[item].Value) != 16 {
		t.Errorf("%+v", secrets)
	}
}

// TestWrongTransferIsOneError: whatever is wrong with it.
func TestWrongTransferIsOneError(t *testing.T) {
	u := serveLogin(t).user()
	session, _ := u.dh()
	iv, block := make([]byte, 16), make([]byte, 16)
	texts := map[string]bool{}
	for name, p := range map[string]passed{
		"padding": {session, iv, slices.Concat(block, block), ""}, "no block": {session, iv, []byte("x"), ""}, "empty": {session, iv, []byte{}, ""},
		"no parameters": {session, []byte{}, block, ""}, "plain with parameters": {u.session, iv, block, ""},
	} {
		err := u.call(defaultPath, collectionInterface+".CreateItem", itemProps(name, nil), p, false).Err
		if errorName(err) != "org.freedesktop.DBus.Error.InvalidArgs" {
			t.Errorf("%s: %v", name, err)
		} else {
			texts[err.Error()] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("%d texts: %v", len(texts), texts)
	}
}

// TestUnknownAlgorithmIsNotSupported: on this error alone libsecret tries plain.
func TestUnknownAlgorithmIsNotSupported(t *testing.T) {
	u := serveStore(t).user()
	for algorithm, c := range map[string]struct {
		input any
		want  string
	}{
		"dh-ietf1024-sha256-aes128-cbc-pkcs8": {[]byte{2}, "NotSupported"}, "": {"", "NotSupported"},
		transfer.Plain: {[]byte{1}, "InvalidArgs"}, transfer.DH: {"2", "InvalidArgs"},
	} {
		u.fails(u.call(secretsPath, serviceInterface+".OpenSession", algorithm, godbus.MakeVariant(c.input)), c.want)
	}
	u.fails(u.call(secretsPath, serviceInterface+".OpenSession", transfer.DH, godbus.MakeVariant([]byte{1})), "InvalidArgs")
}

// TestSessionsAreTheirOwners: nobody else uses or ends them.
func TestSessionsAreTheirOwners(t *testing.T) {
	u := serveLogin(t)
	owner, other := u.user(), u.user()
	item := owner.create(defaultPath, "x", nil, false)
	stolen := other.passed("y")
	stolen.Session = owner.session
	for _, session := range []path{owner.session, sessionsPath + "/s999", sessionsPath, "/"} {
		other.fails(other.call(item, itemInterface+".GetSecret", session), noSession)
		other.fails(other.call(secretsPath, serviceInterface+".GetSecrets", []path{item}, session), noSession)
		stolen.Session = session
		other.fails(other.call(item, itemInterface+".SetSecret", stolen), noSession)
		other.fails(other.call(defaultPath, collectionInterface+".CreateItem", itemProps("y", nil), stolen, false), noSession)
	}
	other.fails(other.call(owner.session, sessionInterface+".Close"), noSession)
	owner.secret(item)
	owner.ok(owner.call(owner.session, sessionInterface+".Close"))
	owner.fails(owner.call(item, itemInterface+".GetSecret", owner.session), noSession)
	owner.fails(owner.call(owner.session, sessionInterface+".Close"), noSession)
}

// TestForgottenSessionsMakeRoom: some programs open one for each secret and
// close none. Those in use stay.
func TestForgottenSessionsMakeRoom(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", nil, false)
	var out godbus.Variant
	var first path
	u.ok(u.call(secretsPath, serviceInterface+".OpenSession", transfer.Plain, godbus.MakeVariant("")), &out, &first)
	for range maxSessions {
		var at path
		u.ok(u.call(secretsPath, serviceInterface+".OpenSession", transfer.Plain, godbus.MakeVariant("")), &out, &at)
		u.secret(item)
	}
	u.fails(u.call(item, itemInterface+".GetSecret", first), noSession)
}

// TestSessionsEndWithTheName: another daemon has it then. They are back, empty,
// when that one ends.
func TestSessionsEndWithTheName(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", nil, false)
	v.lock()
	_, prompt := u.unlock(loginPath)
	ours := godbus.ObjectPath(item)
	thief := v.client()
	if r, err := thief.RequestName(secretsName, godbus.NameFlagReplaceExisting); err != nil || r != godbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%v, %v", r, err)
	}
	if dismissed, _ := u.completed(prompt); !dismissed {
		t.Error("the prompt is not dismissed")
	}
	still := v.client().Object(busName, ours)
	await(t, "NoSession", func() bool {
		return errorName(u.Object(busName, ours).Call(itemInterface+".GetSecret", 0, u.session).Err) == noSession
	})
	if err := still.Call(peerInterface+".Ping", 0).Err; err != nil {
		t.Errorf("everything else: %v", err)
	}
	thief.Close()
	v.awaitOwner(secretsName)
	v.user().search(map[string]string{})
}

// TestAnotherDaemonKeepsTheName until it ends, all else is served meanwhile, and
// Replace takes it at once.
func TestAnotherDaemonKeepsTheName(t *testing.T) {
	first := serveLogin(t)
	for _, replace := range []bool{false, true} {
		t.Run(fmt.Sprint("replace ", replace), func(t *testing.T) {
			client := first.client()
			owner := func() (name string) {
				_ = client.BusObject().Call(driver+".GetNameOwner", 0, secretsName).Store(&name)
				return name
			}
			was := owner()
			log := &logtest.Buffer{}
			stop := serveSecond(t, first, replace, log)
			if replace {
				await(t, "the name", func() bool { return owner() != was })
			} else {
				await(t, "a warning", func() bool { return containsAll(log.String(), "another program is the Secret Service", "dbus.test") })
				if owner() != was {
					t.Error("it was taken")
				}
			}
			stop()
			await(t, "the first one", func() bool { return owner() == was })
		})
	}
}
