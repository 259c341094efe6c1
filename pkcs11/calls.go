package pkcs11

import "github.com/keyringd/keyringd/pkcs11/p11rpc"

// handle answers a request by writing to q.out, or by setting q.later. An error
// becomes the answer instead.
func (q *request) handle() error {
	if q.call == p11rpc.Initialize {
		return q.initialize()
	}
	if !q.ready() {
		return p11rpc.CryptokiNotInitialized
	}
	if h, ok := handlers[q.call]; ok {
		return h(q)
	}
	if rv, ok := refused[q.call]; ok {
		return rv
	}
	return p11rpc.FunctionNotSupported
}

// handlers are the calls that are served.
var handlers = map[p11rpc.Call]func(*request) error{
	p11rpc.Finalize:          (*request).finalize,
	p11rpc.GetInfo:           (*request).getInfo,
	p11rpc.GetSlotList:       (*request).getSlotList,
	p11rpc.GetSlotInfo:       (*request).getSlotInfo,
	p11rpc.GetTokenInfo:      (*request).getTokenInfo,
	p11rpc.GetMechanismList:  (*request).getMechanismList,
	p11rpc.GetMechanismInfo:  (*request).getMechanismInfo,
	p11rpc.WaitForSlotEvent:  (*request).waitForSlotEvent,
	p11rpc.OpenSession:       (*request).openSession,
	p11rpc.CloseSession:      (*request).closeSession,
	p11rpc.CloseAllSessions:  (*request).closeAllSessions,
	p11rpc.GetSessionInfo:    (*request).getSessionInfo,
	p11rpc.Login:             (*request).login,
	p11rpc.Logout:            (*request).logout,
	p11rpc.GetObjectSize:     (*request).getObjectSize,
	p11rpc.GetAttributeValue: (*request).getAttributeValue,
	p11rpc.FindObjectsInit:   (*request).findObjectsInit,
	p11rpc.FindObjects:       (*request).findObjects,
	p11rpc.FindObjectsFinal:  (*request).findObjectsFinal,
	p11rpc.DigestInit:        (*request).digestInit,
	p11rpc.Digest:            (*request).digest,
	p11rpc.DigestUpdate:      (*request).digestUpdate,
	p11rpc.DigestFinal:       (*request).digestFinal,
	p11rpc.SignInit:          (*request).signInit,
	p11rpc.Sign:              (*request).sign,
	p11rpc.SignUpdate:        (*request).signUpdate,
	p11rpc.SignFinal:         (*request).signFinal,
	p11rpc.VerifyInit:        (*request).verifyInit,
	p11rpc.Verify:            (*request).verify,
	p11rpc.VerifyUpdate:      (*request).verifyUpdate,
	p11rpc.VerifyFinal:       (*request).verifyFinal,
	p11rpc.DecryptInit:       (*request).decryptInit,
	p11rpc.Decrypt:           (*request).decrypt,
	p11rpc.DecryptUpdate:     (*request).decryptUpdate,
	p11rpc.DecryptFinal:      (*request).decryptFinal,
	p11rpc.DeriveKey:         (*request).deriveKey,
	p11rpc.UnwrapKey:         (*request).unwrapKey,
	p11rpc.GenerateKeyPair:   (*request).generateKeyPair,
	p11rpc.CreateObject:      (*request).createObject,
	p11rpc.DestroyObject:     (*request).destroyObject,
	p11rpc.GenerateRandom:    (*request).generateRandom,
}

// refused are the calls for which there is a better answer than that they are
// not supported.
var refused = map[p11rpc.Call]p11rpc.RV{
	p11rpc.InitToken:         p11rpc.TokenWriteProtected,
	p11rpc.CopyObject:        p11rpc.ActionProhibited,
	p11rpc.SetAttributeValue: p11rpc.AttributeReadOnly,
	p11rpc.DigestKey:         p11rpc.KeyIndigestible,
	p11rpc.GetOperationState: p11rpc.StateUnsaveable,
	p11rpc.SeedRandom:        p11rpc.RandomSeedNotSupported,
}

func (n *connection) ready() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.initialized
}

// initialize is C_Initialize, §5.4. The arguments that a program gives it stay
// with the program's side, except for one of p11-kit's own, which is ignored.
func (q *request) initialize() error {
	handshake := q.in.Bytes()
	q.in.Byte()
	q.in.Bytes()
	if err := q.in.End(); err != nil {
		return err
	}
	if string(handshake.Data) != p11rpc.Handshake {
		return p11rpc.GeneralError
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.initialized {
		return p11rpc.CryptokiAlreadyInit
	}
	q.initialized = true
	return nil
}

// finalize is C_Finalize, §5.4. What is waiting for the user or a device is
// called off.
func (q *request) finalize() error {
	if err := q.in.End(); err != nil {
		return err
	}
	q.closeSessions(func(*session) bool { return true })
	q.mu.Lock()
	defer q.mu.Unlock()
	q.initialized = false
	return nil
}

// getInfo is C_GetInfo, §5.4.
func (q *request) getInfo() error {
	if err := q.in.End(); err != nil {
		return err
	}
	q.out.Version(2, 40)
	q.out.Padded(manufacturer, 32)
	q.out.Ulong(0)
	q.out.Padded("keyringd", 32)
	q.out.Version(1, 0)
	return nil
}
