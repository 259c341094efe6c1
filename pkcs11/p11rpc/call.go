package p11rpc

import "fmt"

// A Call is the number of a function in the protocol. Numbers are only ever
// added.
type Call uint32

// The calls. Those from [LoginUser] on came with PKCS#11 v3.0 and later.
const (
	CallError Call = iota
	Initialize
	Finalize
	GetInfo
	GetSlotList
	GetSlotInfo
	GetTokenInfo
	GetMechanismList
	GetMechanismInfo
	InitToken
	OpenSession
	CloseSession
	CloseAllSessions
	GetSessionInfo
	InitPIN
	SetPIN
	GetOperationState
	SetOperationState
	Login
	Logout
	CreateObject
	CopyObject
	DestroyObject
	GetObjectSize
	GetAttributeValue
	SetAttributeValue
	FindObjectsInit
	FindObjects
	FindObjectsFinal
	EncryptInit
	Encrypt
	EncryptUpdate
	EncryptFinal
	DecryptInit
	Decrypt
	DecryptUpdate
	DecryptFinal
	DigestInit
	Digest
	DigestUpdate
	DigestKey
	DigestFinal
	SignInit
	Sign
	SignUpdate
	SignFinal
	SignRecoverInit
	SignRecover
	VerifyInit
	Verify
	VerifyUpdate
	VerifyFinal
	VerifyRecoverInit
	VerifyRecover
	DigestEncryptUpdate
	DecryptDigestUpdate
	SignEncryptUpdate
	DecryptVerifyUpdate
	GenerateKey
	GenerateKeyPair
	WrapKey
	UnwrapKey
	DeriveKey
	SeedRandom
	GenerateRandom
	WaitForSlotEvent
	LoginUser
	SessionCancel
)

// A signature says what a call's request and response consist of:
//
//	y   CK_BYTE        u   CK_ULONG            v   CK_VERSION
//	s   padded string  z   string              M   CK_MECHANISM
//	ay  bytes          au  numbers             aA  attributes
//	fy  room for ay    fu  room for au         fA  room for aA
type signature struct{ name, request, response string }

var signatures = [...]signature{
	CallError:           {"error", "", "u"},
	Initialize:          {"C_Initialize", "ayyay", ""},
	Finalize:            {"C_Finalize", "", ""},
	GetInfo:             {"C_GetInfo", "", "vsusv"},
	GetSlotList:         {"C_GetSlotList", "yfu", "au"},
	GetSlotInfo:         {"C_GetSlotInfo", "u", "ssuvv"},
	GetTokenInfo:        {"C_GetTokenInfo", "u", "ssssuuuuuuuuuuuvvs"},
	GetMechanismList:    {"C_GetMechanismList", "ufu", "au"},
	GetMechanismInfo:    {"C_GetMechanismInfo", "uu", "uuu"},
	InitToken:           {"C_InitToken", "uayz", ""},
	OpenSession:         {"C_OpenSession", "uu", "u"},
	CloseSession:        {"C_CloseSession", "u", ""},
	CloseAllSessions:    {"C_CloseAllSessions", "u", ""},
	GetSessionInfo:      {"C_GetSessionInfo", "u", "uuuu"},
	InitPIN:             {"C_InitPIN", "uay", ""},
	SetPIN:              {"C_SetPIN", "uayay", ""},
	GetOperationState:   {"C_GetOperationState", "ufy", "ay"},
	SetOperationState:   {"C_SetOperationState", "uayuu", ""},
	Login:               {"C_Login", "uuay", ""},
	Logout:              {"C_Logout", "u", ""},
	CreateObject:        {"C_CreateObject", "uaA", "u"},
	CopyObject:          {"C_CopyObject", "uuaA", "u"},
	DestroyObject:       {"C_DestroyObject", "uu", ""},
	GetObjectSize:       {"C_GetObjectSize", "uu", "u"},
	GetAttributeValue:   {"C_GetAttributeValue", "uufA", "aAu"},
	SetAttributeValue:   {"C_SetAttributeValue", "uuaA", ""},
	FindObjectsInit:     {"C_FindObjectsInit", "uaA", ""},
	FindObjects:         {"C_FindObjects", "ufu", "au"},
	FindObjectsFinal:    {"C_FindObjectsFinal", "u", ""},
	EncryptInit:         {"C_EncryptInit", "uMu", ""},
	Encrypt:             {"C_Encrypt", "uayfy", "ay"},
	EncryptUpdate:       {"C_EncryptUpdate", "uayfy", "ay"},
	EncryptFinal:        {"C_EncryptFinal", "ufy", "ay"},
	DecryptInit:         {"C_DecryptInit", "uMu", ""},
	Decrypt:             {"C_Decrypt", "uayfy", "ay"},
	DecryptUpdate:       {"C_DecryptUpdate", "uayfy", "ay"},
	DecryptFinal:        {"C_DecryptFinal", "ufy", "ay"},
	DigestInit:          {"C_DigestInit", "uM", ""},
	Digest:              {"C_Digest", "uayfy", "ay"},
	DigestUpdate:        {"C_DigestUpdate", "uay", ""},
	DigestKey:           {"C_DigestKey", "uu", ""},
	DigestFinal:         {"C_DigestFinal", "ufy", "ay"},
	SignInit:            {"C_SignInit", "uMu", ""},
	Sign:                {"C_Sign", "uayfy", "ay"},
	SignUpdate:          {"C_SignUpdate", "uay", ""},
	SignFinal:           {"C_SignFinal", "ufy", "ay"},
	SignRecoverInit:     {"C_SignRecoverInit", "uMu", ""},
	SignRecover:         {"C_SignRecover", "uayfy", "ay"},
	VerifyInit:          {"C_VerifyInit", "uMu", ""},
	Verify:              {"C_Verify", "uayay", ""},
	VerifyUpdate:        {"C_VerifyUpdate", "uay", ""},
	VerifyFinal:         {"C_VerifyFinal", "uay", ""},
	VerifyRecoverInit:   {"C_VerifyRecoverInit", "uMu", ""},
	VerifyRecover:       {"C_VerifyRecover", "uayfy", "ay"},
	DigestEncryptUpdate: {"C_DigestEncryptUpdate", "uayfy", "ay"},
	DecryptDigestUpdate: {"C_DecryptDigestUpdate", "uayfy", "ay"},
	SignEncryptUpdate:   {"C_SignEncryptUpdate", "uayfy", "ay"},
	DecryptVerifyUpdate: {"C_DecryptVerifyUpdate", "uayfy", "ay"},
	GenerateKey:         {"C_GenerateKey", "uMaA", "u"},
	GenerateKeyPair:     {"C_GenerateKeyPair", "uMaAaA", "uu"},
	WrapKey:             {"C_WrapKey", "uMuufy", "ay"},
	UnwrapKey:           {"C_UnwrapKey", "uMuayaA", "u"},
	DeriveKey:           {"C_DeriveKey", "uMuaA", "u"},
	SeedRandom:          {"C_SeedRandom", "uay", ""},
	GenerateRandom:      {"C_GenerateRandom", "ufy", "ay"},
	WaitForSlotEvent:    {"C_WaitForSlotEvent", "u", "u"},
	LoginUser:           {"C_LoginUser", "uuayay", ""},
	SessionCancel:       {"C_SessionCancel", "uu", ""},
}

// String returns the function's name, "C_Sign".
func (c Call) String() string {
	if !c.Known() {
		return fmt.Sprintf("call %d", uint32(c))
	}
	return signatures[c].name
}

// Known reports whether the call's signature is known.
func (c Call) Known() bool { return uint64(c) < uint64(len(signatures)) }

// Request returns the signature of the call's request, "" for one that is not
// known.
func (c Call) Request() string {
	if !c.Known() {
		return ""
	}
	return signatures[c].request
}

// Response returns the signature of the call's response, "" for one that is not
// known.
func (c Call) Response() string {
	if !c.Known() {
		return ""
	}
	return signatures[c].response
}
