/*
 * rpc.h: the calls of PKCS#11, marshalled by their signatures.
 */
#ifndef KEYRINGD_RPC_H
#define KEYRINGD_RPC_H

#include "conn.h"

/* The numbers of the calls on the wire. */
enum call {
	CALL_ERROR, /* only in replies: the code of a call that went wrong */
	CALL_Initialize, CALL_Finalize, CALL_GetInfo, CALL_GetSlotList, CALL_GetSlotInfo,
	CALL_GetTokenInfo, CALL_GetMechanismList, CALL_GetMechanismInfo, CALL_InitToken,
	CALL_OpenSession, CALL_CloseSession, CALL_CloseAllSessions, CALL_GetSessionInfo,
	CALL_InitPIN, CALL_SetPIN, CALL_GetOperationState, CALL_SetOperationState,
	CALL_Login, CALL_Logout, CALL_CreateObject, CALL_CopyObject, CALL_DestroyObject,
	CALL_GetObjectSize, CALL_GetAttributeValue, CALL_SetAttributeValue,
	CALL_FindObjectsInit, CALL_FindObjects, CALL_FindObjectsFinal,
	CALL_EncryptInit, CALL_Encrypt, CALL_EncryptUpdate, CALL_EncryptFinal,
	CALL_DecryptInit, CALL_Decrypt, CALL_DecryptUpdate, CALL_DecryptFinal,
	CALL_DigestInit, CALL_Digest, CALL_DigestUpdate, CALL_DigestKey, CALL_DigestFinal,
	CALL_SignInit, CALL_Sign, CALL_SignUpdate, CALL_SignFinal,
	CALL_SignRecoverInit, CALL_SignRecover,
	CALL_VerifyInit, CALL_Verify, CALL_VerifyUpdate, CALL_VerifyFinal,
	CALL_VerifyRecoverInit, CALL_VerifyRecover,
	CALL_DigestEncryptUpdate, CALL_DecryptDigestUpdate,
	CALL_SignEncryptUpdate, CALL_DecryptVerifyUpdate,
	CALL_GenerateKey, CALL_GenerateKeyPair, CALL_WrapKey, CALL_UnwrapKey, CALL_DeriveKey,
	CALL_SeedRandom, CALL_GenerateRandom, CALL_WaitForSlotEvent,
	CALL_COUNT
};

/* One argument of a call: a number or a pointer, as the signature says. */
union argument {
	CK_ULONG n;
	void *p;
};

/*
 * rpc_prepare writes a request, with room for the frame's header, from the
 * arguments; rpc_finish reads the reply to it into what the arguments point to.
 * Neither believes the peer: what is out of line is CKR_DEVICE_ERROR.
 */
CK_RV rpc_prepare(enum call id, const union argument *args, unsigned epoch, uint8_t version, struct buffer *request);
CK_RV rpc_finish(enum call id, const union argument *args, unsigned epoch, const struct buffer *reply);

/* rpc_run does a whole call over the connection. */
CK_RV rpc_run(struct conn *c, enum call id, const union argument *args);

/* rpc_hello is the first call on a connection. */
CK_RV rpc_hello(struct conn *c);

/* rpc_in_session tells whether the call's first argument is a session. */
bool rpc_in_session(enum call id);

#endif
