/*
 * module.c: the 68 functions of PKCS#11 v2.40 and the interfaces of v3.0.
 *
 * Only the three functions by which a host finds all others are visible; the
 * rest is reached through the list. Next to nothing is decided here: what a
 * function sends and gets is in the table of rpc.c.
 */
#include <pthread.h>
#include <string.h>

#include "state.h"

#define VISIBLE __attribute__((visibility("default")))

#define CRYPTOKI_PROTOTYPE(name, parameters) CK_RV name parameters;
CRYPTOKI_FUNCTIONS(CRYPTOKI_PROTOTYPE)
CK_RV C_GetInterfaceList(CK_INTERFACE *, CK_ULONG *);
CK_RV C_GetInterface(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);

static CK_FUNCTION_LIST functions = {
	.version = {2, 40},
#define CRYPTOKI_ENTRY(name, parameters) .name = name,
	CRYPTOKI_FUNCTIONS(CRYPTOKI_ENTRY)
};

/*
 * call does one call on the connection of the process. Without a daemon there
 * is no slot, and no session is open.
 */
static CK_RV call(enum call id, const union argument *args)
{
	struct state *s = state_get();
	if (s == NULL)
		return CKR_CRYPTOKI_NOT_INITIALIZED;

	/* A thread that is cancelled while it reads for all would leave the
	 * others without a reader. */
	int cancel;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);

	CK_RV rv;
	struct conn *c = state_conn(s, !rpc_in_session(id));
	if (c == NULL) {
		rv = rpc_in_session(id) ? CKR_SESSION_HANDLE_INVALID : CKR_SLOT_ID_INVALID;
	} else {
		rv = rpc_run(c, id, args);
		conn_unref(c);
	}
	if (rv == CKR_DEVICE_REMOVED && state_ended(s))
		rv = CKR_CRYPTOKI_NOT_INITIALIZED;
	state_put(s);
	pthread_setcancelstate(cancel, NULL);
	return rv;
}

#define N(x) {.n = (x)}
#define P(x) {.p = (x)}
#define CALL(name, ...) call(CALL_##name, (const union argument[]){__VA_ARGS__})

/* General purpose. */

CK_RV C_Initialize(void *init)
{
	const CK_C_INITIALIZE_ARGS *args = init;
	if (args != NULL) {
		int given = (args->CreateMutex != NULL) + (args->DestroyMutex != NULL) +
			(args->LockMutex != NULL) + (args->UnlockMutex != NULL);
		if (args->pReserved != NULL || (given != 0 && given != 4))
			return CKR_ARGUMENTS_BAD;
		/* Only the system's locks will do: we wait on conditions. */
		if (given == 4 && !(args->flags & CKF_OS_LOCKING_OK))
			return CKR_CANT_LOCK;
	}
	/* The connection is made when it is first needed, which keeps a process
	 * that never uses a token free of it. */
	return state_begin();
}

CK_RV C_Finalize(void *reserved)
{
	return reserved != NULL ? CKR_ARGUMENTS_BAD : state_end();
}

CK_RV C_GetInfo(CK_INFO *info)
{
	static const CK_INFO alone = {
		.cryptokiVersion = {2, 40},
		.manufacturerID = "keyringd                        ",
		.libraryDescription = "keyringd (not running)          ",
		.libraryVersion = {1, 0},
	};
	CK_RV rv = CALL(GetInfo, P(info));
	if (rv != CKR_SLOT_ID_INVALID && rv != CKR_DEVICE_REMOVED)
		return rv;
	if (info == NULL)
		return CKR_ARGUMENTS_BAD;
	*info = alone;
	return CKR_OK;
}

VISIBLE CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
	if (list == NULL)
		return CKR_ARGUMENTS_BAD;
	*list = &functions;
	return CKR_OK;
}

static CK_UTF8CHAR interface_name[] = "PKCS 11";
static CK_INTERFACE interface = {
	.pInterfaceName = interface_name,
	.pFunctionList = &functions,
	.flags = 0, /* a forked child begins anew */
};

VISIBLE CK_RV C_GetInterfaceList(CK_INTERFACE *list, CK_ULONG *count)
{
	if (count == NULL)
		return CKR_ARGUMENTS_BAD;
	CK_ULONG have = *count;
	*count = 1;
	if (list == NULL)
		return CKR_OK;
	if (have < 1)
		return CKR_BUFFER_TOO_SMALL;
	*list = interface;
	return CKR_OK;
}

VISIBLE CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **found, CK_FLAGS flags)
{
	if (found == NULL)
		return CKR_ARGUMENTS_BAD;
	if ((name != NULL && strcmp((const char *)name, (const char *)interface_name) != 0) ||
	    (version != NULL && (version->major != functions.version.major || version->minor != functions.version.minor)) ||
	    (flags & ~interface.flags) != 0)
		return CKR_FUNCTION_FAILED;
	*found = &interface;
	return CKR_OK;
}

/* Slots and tokens. */

CK_RV C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
	CK_RV rv = CALL(GetSlotList, N(present), P(slots), P(count));
	if (rv != CKR_SLOT_ID_INVALID && rv != CKR_DEVICE_REMOVED)
		return rv;
	if (count == NULL)
		return CKR_ARGUMENTS_BAD;
	*count = 0;
	return CKR_OK;
}

CK_RV C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
	return CALL(GetSlotInfo, N(slot), P(info));
}

CK_RV C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
	return CALL(GetTokenInfo, N(slot), P(info));
}

CK_RV C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
	return CALL(GetMechanismList, N(slot), P(list), P(count));
}

CK_RV C_GetMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info)
{
	return CALL(GetMechanismInfo, N(slot), N(type), P(info));
}

CK_RV C_InitToken(CK_SLOT_ID slot, CK_UTF8CHAR *pin, CK_ULONG len, CK_UTF8CHAR *label)
{
	char text[33] = ""; /* a caller's label is padded, and ends in no NUL */
	if (label == NULL)
		return CKR_ARGUMENTS_BAD;
	memcpy(text, label, 32);
	return CALL(InitToken, N(slot), P(pin), N(len), P(text));
}

CK_RV C_InitPIN(CK_SESSION_HANDLE session, CK_UTF8CHAR *pin, CK_ULONG len)
{
	return CALL(InitPIN, N(session), P(pin), N(len));
}

CK_RV C_SetPIN(CK_SESSION_HANDLE session, CK_UTF8CHAR *old, CK_ULONG old_len, CK_UTF8CHAR *pin, CK_ULONG len)
{
	return CALL(SetPIN, N(session), P(old), N(old_len), P(pin), N(len));
}

static CK_RV wait_for_event(CK_FLAGS flags, CK_SLOT_ID *slot)
{
	/* It waits on a connection of its own: a server that answers in turn
	 * would serve nothing else meanwhile. A caller that is told of no
	 * support looks at the slots now and then, which finds a daemon, too. */
	struct state *s = state_get();
	if (s == NULL)
		return CKR_CRYPTOKI_NOT_INITIALIZED;
	int cancel;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	CK_RV rv = CKR_FUNCTION_NOT_SUPPORTED;
	struct conn *c = state_waiter(s);
	if (c != NULL) {
		rv = rpc_run(c, CALL_WaitForSlotEvent, (const union argument[]){N(flags), P(slot)});
		state_waited(s, c);
	}
	if (state_ended(s)) /* C_Finalize is how a host ends the wait */
		rv = CKR_CRYPTOKI_NOT_INITIALIZED;
	state_put(s);
	pthread_setcancelstate(cancel, NULL);
	return rv;
}

CK_RV C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
	if (slot == NULL || reserved != NULL)
		return CKR_ARGUMENTS_BAD;
	if (!(flags & CKF_DONT_BLOCK))
		return wait_for_event(flags, slot);
	CK_RV rv = CALL(WaitForSlotEvent, N(flags), P(slot));
	return rv == CKR_SLOT_ID_INVALID || rv == CKR_DEVICE_REMOVED ? CKR_NO_EVENT : rv;
}

/* Sessions. */

CK_RV C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, void *user, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
	(void)user; /* nothing is ever notified, as the standard allows */
	(void)notify;
	return CALL(OpenSession, N(slot), N(flags), P(session));
}

CK_RV C_CloseAllSessions(CK_SLOT_ID slot)
{
	return CALL(CloseAllSessions, N(slot));
}

CK_RV C_GetSessionInfo(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
	return CALL(GetSessionInfo, N(session), P(info));
}

CK_RV C_SetOperationState(CK_SESSION_HANDLE session, CK_BYTE *state, CK_ULONG len, CK_OBJECT_HANDLE cipher,
	CK_OBJECT_HANDLE authentication)
{
	return CALL(SetOperationState, N(session), P(state), N(len), N(cipher), N(authentication));
}

CK_RV C_Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG len)
{
	return CALL(Login, N(session), N(user), P(pin), N(len));
}

/* Objects. */

CK_RV C_CreateObject(CK_SESSION_HANDLE session, CK_ATTRIBUTE *a, CK_ULONG count, CK_OBJECT_HANDLE *object)
{
	return CALL(CreateObject, N(session), P(a), N(count), P(object));
}

CK_RV C_CopyObject(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE from, CK_ATTRIBUTE *a, CK_ULONG count,
	CK_OBJECT_HANDLE *object)
{
	return CALL(CopyObject, N(session), N(from), P(a), N(count), P(object));
}

CK_RV C_DestroyObject(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object)
{
	return CALL(DestroyObject, N(session), N(object));
}

CK_RV C_GetObjectSize(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ULONG *size)
{
	return CALL(GetObjectSize, N(session), N(object), P(size));
}

CK_RV C_GetAttributeValue(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *a, CK_ULONG count)
{
	return CALL(GetAttributeValue, N(session), N(object), P(a), N(count));
}

CK_RV C_SetAttributeValue(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *a, CK_ULONG count)
{
	return CALL(SetAttributeValue, N(session), N(object), P(a), N(count));
}

CK_RV C_FindObjectsInit(CK_SESSION_HANDLE session, CK_ATTRIBUTE *a, CK_ULONG count)
{
	return CALL(FindObjectsInit, N(session), P(a), N(count));
}

CK_RV C_FindObjects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG most, CK_ULONG *count)
{
	CK_ULONG n = most;
	if (count == NULL || (objects == NULL && most != 0))
		return CKR_ARGUMENTS_BAD;
	CK_RV rv = CALL(FindObjects, N(session), P(objects), P(&n));
	if (rv == CKR_BUFFER_TOO_SMALL) /* more than was asked for */
		return CKR_DEVICE_ERROR;
	if (rv == CKR_OK)
		*count = n;
	return rv;
}

/* The shapes that most functions on data have. */

#define ON_SESSION(name) \
	CK_RV C_##name(CK_SESSION_HANDLE session) \
	{ \
		return CALL(name, N(session)); \
	}
#define WITH_KEY(name) \
	CK_RV C_##name(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) \
	{ \
		return CALL(name, N(session), P(mechanism), N(key)); \
	}
#define IN_AND_OUT(name) \
	CK_RV C_##name(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG len, CK_BYTE *out, CK_ULONG *room) \
	{ \
		return CALL(name, N(session), P(in), N(len), P(out), P(room)); \
	}
#define OUT(name) \
	CK_RV C_##name(CK_SESSION_HANDLE session, CK_BYTE *out, CK_ULONG *room) \
	{ \
		return CALL(name, N(session), P(out), P(room)); \
	}
#define IN(name) \
	CK_RV C_##name(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG len) \
	{ \
		return CALL(name, N(session), P(in), N(len)); \
	}
/* A part may be of any size: it goes in as many as fit through a frame. */
#define PART 65536
#define IN_PARTS(name) \
	CK_RV C_##name(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG len) \
	{ \
		CK_RV rv = CKR_OK; \
		while (in != NULL && len > PART && rv == CKR_OK) { \
			rv = CALL(name, N(session), P(in), N(PART)); \
			in += PART; \
			len -= PART; \
		} \
		return rv != CKR_OK ? rv : CALL(name, N(session), P(in), N(len)); \
	}

ON_SESSION(CloseSession)
ON_SESSION(Logout)
ON_SESSION(FindObjectsFinal)
OUT(GetOperationState)

WITH_KEY(EncryptInit)
IN_AND_OUT(Encrypt)
IN_AND_OUT(EncryptUpdate)
OUT(EncryptFinal)
WITH_KEY(DecryptInit)
IN_AND_OUT(Decrypt)
IN_AND_OUT(DecryptUpdate)
OUT(DecryptFinal)

CK_RV C_DigestInit(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism)
{
	return CALL(DigestInit, N(session), P(mechanism));
}

CK_RV C_DigestKey(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
	return CALL(DigestKey, N(session), N(key));
}

IN_AND_OUT(Digest)
IN_PARTS(DigestUpdate)
OUT(DigestFinal)

WITH_KEY(SignInit)
IN_AND_OUT(Sign)
IN_PARTS(SignUpdate)
OUT(SignFinal)
WITH_KEY(SignRecoverInit)
IN_AND_OUT(SignRecover)

CK_RV C_Verify(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG len, CK_BYTE *signature, CK_ULONG signature_len)
{
	return CALL(Verify, N(session), P(in), N(len), P(signature), N(signature_len));
}

WITH_KEY(VerifyInit)
IN_PARTS(VerifyUpdate)
IN(VerifyFinal)
WITH_KEY(VerifyRecoverInit)
IN_AND_OUT(VerifyRecover)

IN_AND_OUT(DigestEncryptUpdate)
IN_AND_OUT(DecryptDigestUpdate)
IN_AND_OUT(SignEncryptUpdate)
IN_AND_OUT(DecryptVerifyUpdate)

/* Keys. */

CK_RV C_GenerateKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *a, CK_ULONG count,
	CK_OBJECT_HANDLE *key)
{
	return CALL(GenerateKey, N(session), P(mechanism), P(a), N(count), P(key));
}

CK_RV C_GenerateKeyPair(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *public,
	CK_ULONG public_count, CK_ATTRIBUTE *private, CK_ULONG private_count, CK_OBJECT_HANDLE *public_key,
	CK_OBJECT_HANDLE *private_key)
{
	return CALL(GenerateKeyPair, N(session), P(mechanism), P(public), N(public_count), P(private),
		N(private_count), P(public_key), P(private_key));
}

CK_RV C_WrapKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with,
	CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *room)
{
	return CALL(WrapKey, N(session), P(mechanism), N(with), N(key), P(out), P(room));
}

CK_RV C_UnwrapKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_BYTE *in,
	CK_ULONG len, CK_ATTRIBUTE *a, CK_ULONG count, CK_OBJECT_HANDLE *key)
{
	return CALL(UnwrapKey, N(session), P(mechanism), N(with), P(in), N(len), P(a), N(count), P(key));
}

CK_RV C_DeriveKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *a,
	CK_ULONG count, CK_OBJECT_HANDLE *key)
{
	return CALL(DeriveKey, N(session), P(mechanism), N(base), P(a), N(count), P(key));
}

/* Random numbers. */

IN_PARTS(SeedRandom)

CK_RV C_GenerateRandom(CK_SESSION_HANDLE session, CK_BYTE *out, CK_ULONG len)
{
	if (out == NULL)
		return CKR_ARGUMENTS_BAD;
	while (len > 0) {
		CK_ULONG want = len < PART ? len : PART, got = want;
		CK_RV rv = CALL(GenerateRandom, N(session), P(out), P(&got));
		if (rv != CKR_OK)
			return rv;
		if (got != want) /* never leave bytes that are not random */
			return CKR_DEVICE_ERROR;
		out += want;
		len -= want;
	}
	return CKR_OK;
}

/* Functions of PKCS#11 before 2.01, which the standard wants answered so. */

CK_RV C_GetFunctionStatus(CK_SESSION_HANDLE session)
{
	(void)session;
	return CKR_FUNCTION_NOT_PARALLEL;
}

CK_RV C_CancelFunction(CK_SESSION_HANDLE session)
{
	(void)session;
	return CKR_FUNCTION_NOT_PARALLEL;
}
