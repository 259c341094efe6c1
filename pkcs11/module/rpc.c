#include "rpc.h"

#include <string.h>

/*
 * The table that the module is made of: what goes over the wire for each call,
 * in p11-kit's letters, with some of ours that say more and look the same there.
 *
 *   u  CK_ULONG                     y   CK_BYTE        z  string
 *   ay bytes and their number       fy  room for bytes, filled by the reply's ay
 *   fu room for numbers, filled by the reply's au (ao where they are objects)
 *   aA template and its size        fA  attributes to be read into
 *   M  mechanism
 * ours, all u on the wire:
 *   h  session handle    o  object handle    k  handle of a key in use
 *   r  code that the call returns
 * and in replies a { before the fields of a structure, one after the other as
 * in memory, where s is followed by its length and v is a CK_VERSION.
 */
static const struct signature {
	const char *request, *reply;
} calls[CALL_COUNT] = {
	[CALL_Initialize] = {"ayyay", ""},
	[CALL_Finalize] = {"", ""},
	[CALL_GetInfo] = {"", "{vs32us32v"},
	[CALL_GetSlotList] = {"yfu", "au"},
	[CALL_GetSlotInfo] = {"u", "{s64s32uvv"},
	[CALL_GetTokenInfo] = {"u", "{s32s32s16s16uuuuuuuuuuuvvs16"},
	[CALL_GetMechanismList] = {"ufu", "au"},
	[CALL_GetMechanismInfo] = {"uu", "{uuu"},
	[CALL_InitToken] = {"uayz", ""},
	[CALL_OpenSession] = {"uu", "h"},
	[CALL_CloseSession] = {"h", ""},
	[CALL_CloseAllSessions] = {"u", ""},
	[CALL_GetSessionInfo] = {"h", "{uuuu"},
	[CALL_InitPIN] = {"hay", ""},
	[CALL_SetPIN] = {"hayay", ""},
	[CALL_GetOperationState] = {"hfy", "ay"},
	[CALL_SetOperationState] = {"haykk", ""},
	[CALL_Login] = {"huay", ""},
	[CALL_Logout] = {"h", ""},
	[CALL_CreateObject] = {"haA", "o"},
	[CALL_CopyObject] = {"hoaA", "o"},
	[CALL_DestroyObject] = {"ho", ""},
	[CALL_GetObjectSize] = {"ho", "u"},
	[CALL_GetAttributeValue] = {"hofA", "aAr"},
	[CALL_SetAttributeValue] = {"hoaA", ""},
	[CALL_FindObjectsInit] = {"haA", ""},
	[CALL_FindObjects] = {"hfu", "ao"},
	[CALL_FindObjectsFinal] = {"h", ""},
	[CALL_EncryptInit] = {"hMk", ""},
	[CALL_Encrypt] = {"hayfy", "ay"},
	[CALL_EncryptUpdate] = {"hayfy", "ay"},
	[CALL_EncryptFinal] = {"hfy", "ay"},
	[CALL_DecryptInit] = {"hMk", ""},
	[CALL_Decrypt] = {"hayfy", "ay"},
	[CALL_DecryptUpdate] = {"hayfy", "ay"},
	[CALL_DecryptFinal] = {"hfy", "ay"},
	[CALL_DigestInit] = {"hM", ""},
	[CALL_Digest] = {"hayfy", "ay"},
	[CALL_DigestUpdate] = {"hay", ""},
	[CALL_DigestKey] = {"hk", ""},
	[CALL_DigestFinal] = {"hfy", "ay"},
	[CALL_SignInit] = {"hMk", ""},
	[CALL_Sign] = {"hayfy", "ay"},
	[CALL_SignUpdate] = {"hay", ""},
	[CALL_SignFinal] = {"hfy", "ay"},
	[CALL_SignRecoverInit] = {"hMk", ""},
	[CALL_SignRecover] = {"hayfy", "ay"},
	[CALL_VerifyInit] = {"hMk", ""},
	[CALL_Verify] = {"hayay", ""},
	[CALL_VerifyUpdate] = {"hay", ""},
	[CALL_VerifyFinal] = {"hay", ""},
	[CALL_VerifyRecoverInit] = {"hMk", ""},
	[CALL_VerifyRecover] = {"hayfy", "ay"},
	[CALL_DigestEncryptUpdate] = {"hayfy", "ay"},
	[CALL_DecryptDigestUpdate] = {"hayfy", "ay"},
	[CALL_SignEncryptUpdate] = {"hayfy", "ay"},
	[CALL_DecryptVerifyUpdate] = {"hayfy", "ay"},
	[CALL_GenerateKey] = {"hMaA", "o"},
	[CALL_GenerateKeyPair] = {"hMaAaA", "oo"},
	[CALL_WrapKey] = {"hMkkfy", "ay"},
	[CALL_UnwrapKey] = {"hMkayaA", "o"},
	[CALL_DeriveKey] = {"hMkaA", "o"},
	[CALL_SeedRandom] = {"hay", ""},
	[CALL_GenerateRandom] = {"hfy", "ay"},
	[CALL_WaitForSlotEvent] = {"u", "u"},
};

/* More numbers than anybody asks for at once; the peer makes room for them. */
#define MAX_NUMBERS 65536

/*
 * Handles carry the connection they came over in their upper bits. A daemon
 * that was started anew begins to count anew, and what an application kept from
 * before must not come to mean another session, or worse, another key. The
 * first connection's handles are the peer's own. 48 bits hold a pointer, which
 * is what some modules behind p11-kit hand out.
 */
#define EPOCH_SHIFT (sizeof(CK_ULONG) == 8 ? 48 : 24)
#define REMOTE_MASK (((CK_ULONG)1 << EPOCH_SHIFT) - 1)

static CK_ULONG epoch_bits(unsigned epoch)
{
	return ((CK_ULONG)epoch << EPOCH_SHIFT) & ~REMOTE_MASK;
}

static CK_RV put_handle(struct buffer *b, CK_ULONG handle, unsigned epoch, CK_RV stale)
{
	if (handle == CK_INVALID_HANDLE && stale != CKR_SESSION_HANDLE_INVALID) {
		put_ulong(b, 0); /* some calls take none: the peer knows which */
		return CKR_OK;
	}
	if ((handle & ~REMOTE_MASK) != epoch_bits(epoch))
		return stale;
	put_ulong(b, handle & REMOTE_MASK);
	return CKR_OK;
}

static CK_ULONG get_handle(struct reader *r, unsigned epoch)
{
	CK_ULONG remote = get_ulong(r);
	if (remote > REMOTE_MASK) /* could not be told from another's */
		r->failed = true;
	return remote | epoch_bits(epoch);
}

/* wire_signature writes a signature in the letters of the wire. */
static size_t wire_signature(const char *signature, uint8_t *out)
{
	size_t n = 0;
	for (; *signature != '\0'; signature++) {
		if (*signature == '{' || (*signature >= '0' && *signature <= '9'))
			continue;
		out[n++] = (uint8_t)(strchr("hokr", *signature) != NULL ? 'u' : *signature);
	}
	return n;
}
#define SIGNATURE_MAX 32

bool rpc_in_session(enum call id)
{
	return calls[id].request[0] == 'h';
}

/* put_array writes what follows an 'a', from two arguments. */
static CK_RV put_array(struct buffer *b, char element, const union argument *args)
{
	void *p = args[0].p;
	CK_ULONG n = args[1].n;
	if (p == NULL && n != 0)
		return CKR_ARGUMENTS_BAD;
	if (n > WIRE_MAX_BODY)
		return CKR_DATA_LEN_RANGE;
	if (element == 'A')
		return put_template(b, p, n);
	put_byte(b, 1);
	put_bytes(b, p, n);
	return CKR_OK;
}

/* put_buffer writes what follows an 'f': how much the caller has room for. */
static CK_RV put_buffer(struct buffer *b, char element, const union argument *args)
{
	if (element == 'A') {
		if ((args[0].p == NULL && args[1].n != 0) || args[1].n > WIRE_MAX_BODY)
			return CKR_ARGUMENTS_BAD;
		put_room(b, args[0].p, args[1].n);
		return CKR_OK;
	}
	const CK_ULONG *len = args[1].p;
	const CK_ULONG most = element == 'u' ? MAX_NUMBERS : WIRE_MAX_BODY;
	if (len == NULL)
		return CKR_ARGUMENTS_BAD;
	CK_ULONG room = args[0].p != NULL ? *len : 0;
	put_u32(b, (uint32_t)(room < most ? room : most));
	return CKR_OK;
}

CK_RV rpc_prepare(enum call id, const union argument *args, unsigned epoch, uint8_t version, struct buffer *b)
{
	uint8_t signature[SIGNATURE_MAX];
	CK_RV rv = CKR_OK;

	buffer_extend(b, FRAME_HEADER);
	put_u32(b, id);
	put_bytes(b, signature, wire_signature(calls[id].request, signature));

	for (const char *s = calls[id].request; *s != '\0' && rv == CKR_OK; s++) {
		switch (*s) {
		case 'h':
			rv = put_handle(b, args++->n, epoch, CKR_SESSION_HANDLE_INVALID);
			break;
		case 'o':
			rv = put_handle(b, args++->n, epoch, CKR_OBJECT_HANDLE_INVALID);
			break;
		case 'k':
			rv = put_handle(b, args++->n, epoch, CKR_KEY_HANDLE_INVALID);
			break;
		case 'u':
			put_ulong(b, args++->n);
			break;
		case 'y':
			put_byte(b, (uint8_t)args++->n);
			break;
		case 'z':
			put_bytes(b, args->p, strlen(args->p));
			args++;
			break;
		case 'M':
			rv = args->p != NULL ? put_mechanism(b, args->p, version) : CKR_ARGUMENTS_BAD;
			args++;
			break;
		case 'a':
			rv = put_array(b, *++s, args);
			args += 2;
			break;
		default: /* 'f' */
			rv = put_buffer(b, *++s, args);
			args += 2;
			break;
		}
	}
	/* What is left is for the reply, and all of it is needed there. */
	for (const char *s = calls[id].reply; *s != '\0' && *s != 'a' && rv == CKR_OK; s++) {
		if (args++->p == NULL)
			rv = CKR_ARGUMENTS_BAD;
		if (*s == '{')
			break;
	}
	if (rv == CKR_OK && b->failed)
		rv = b->len > WIRE_MAX_BODY / 2 ? CKR_DATA_LEN_RANGE : CKR_HOST_MEMORY;
	return rv;
}

/* get_room reads an "ay" into the room that the request told of. */
static CK_RV get_room(struct reader *r, const union argument *room)
{
	CK_ULONG *len = room[1].p, have = *len;
	uint8_t there = get_byte(r);
	size_t n;

	if (there > 1)
		r->failed = true;
	if (!there) { /* only its length, as it was asked for or did not fit */
		n = get_u32(r);
		if (r->failed)
			return CKR_DEVICE_ERROR;
		*len = n;
		if (room[0].p == NULL || n == 0)
			return CKR_OK;
		return n > have ? CKR_BUFFER_TOO_SMALL : CKR_DEVICE_ERROR;
	}
	const uint8_t *p = get_bytes(r, &n);
	if (r->failed || (room[0].p != NULL && n > have))
		return CKR_DEVICE_ERROR; /* more than we said there was room for */
	if (room[0].p != NULL && n > 0)
		memcpy(room[0].p, p, n);
	*len = n;
	return CKR_OK;
}

/* get_numbers reads an "au", or an "ao" into handles. */
static CK_RV get_numbers(struct reader *r, const union argument *room, bool handles, unsigned epoch)
{
	CK_ULONG *to = room[0].p, *len = room[1].p, have = *len;
	uint8_t there = get_byte(r);
	uint32_t n = get_u32(r);

	if (r->failed || there > 1 || (there && n > r->left / 8))
		return CKR_DEVICE_ERROR;
	if (to != NULL && n > have) {
		r->p += there ? n * 8 : 0;
		r->left -= there ? n * 8 : 0;
		*len = n;
		return CKR_BUFFER_TOO_SMALL;
	}
	if (!there && to != NULL && n > 0)
		return CKR_DEVICE_ERROR;
	for (uint32_t i = 0; there && i < n; i++) {
		CK_ULONG v = handles ? get_handle(r, epoch) : get_ulong(r);
		if (to != NULL)
			to[i] = v;
	}
	*len = n;
	return CKR_OK;
}

/*
 * get_structure reads fields to where a C compiler puts them: one after the
 * other, numbers on their alignment. the assertions below hold it to them.
 */
static void get_structure(struct reader *r, const char *s, uint8_t *to)
{
	size_t at = 0;
	while (*s != '\0' && !r->failed) {
		switch (*s++) {
		case 'v':
			to[at++] = get_byte(r);
			to[at++] = get_byte(r);
			break;
		case 'u': {
			CK_ULONG v = get_ulong(r);
			at = (at + sizeof v - 1) & ~(sizeof v - 1);
			memcpy(to + at, &v, sizeof v);
			at += sizeof v;
			break;
		}
		default: { /* 's' and two digits */
			size_t n, want = (size_t)(s[0] - '0') * 10 + (size_t)(s[1] - '0');
			const uint8_t *p = get_bytes(r, &n);
			s += 2;
			if (p == NULL || n != want)
				r->failed = true;
			else
				memcpy(to + at, p, want);
			at += want;
		}
		}
	}
}

_Static_assert(offsetof(CK_INFO, libraryDescription) == offsetof(CK_INFO, flags) + sizeof(CK_ULONG), "layout");
_Static_assert(offsetof(CK_SLOT_INFO, flags) == 96, "layout");
_Static_assert(offsetof(CK_TOKEN_INFO, flags) == 96, "layout");
_Static_assert(offsetof(CK_TOKEN_INFO, utcTime) == 96 + 11 * sizeof(CK_ULONG) + 4, "layout");
_Static_assert(offsetof(CK_SESSION_INFO, ulDeviceError) == 3 * sizeof(CK_ULONG), "layout");

/* returned is the code of a call whose reply was read to its end, or not. */
static CK_RV returned(const struct reader *r, CK_RV rv)
{
	return r->failed || r->left != 0 ? CKR_DEVICE_ERROR : rv;
}

CK_RV rpc_finish(enum call id, const union argument *args, unsigned epoch, const struct buffer *reply)
{
	struct reader r = {.p = reply->data, .left = reply->len};
	uint32_t came = get_u32(&r);
	size_t n;
	const uint8_t *signature = get_bytes(&r, &n);
	uint8_t want[SIGNATURE_MAX];
	size_t wanted = wire_signature(came == CALL_ERROR ? "u" : calls[id].reply, want);

	if (r.failed || (came != CALL_ERROR && came != id) || signature == NULL || n != wanted ||
	    memcmp(signature, want, n) != 0)
		return CKR_DEVICE_ERROR;
	if (came == CALL_ERROR) {
		CK_RV rv = get_ulong(&r);
		return returned(&r, rv != CKR_OK ? rv : CKR_DEVICE_ERROR);
	}

	/* Find the room that the request spoke of, and what is for the reply. */
	const union argument *room = args;
	for (const char *s = calls[id].request; *s != '\0'; s++) {
		bool two = *s == 'a' || *s == 'f';
		if (*s == 'f')
			room = args;
		args += two ? 2 : 1;
		s += two;
	}

	CK_RV rv = CKR_OK;
	for (const char *s = calls[id].reply; *s != '\0'; s++) {
		switch (*s) {
		case '{':
			get_structure(&r, s + 1, args->p);
			return returned(&r, CKR_OK);
		case 'h':
		case 'o':
			*(CK_ULONG *)args++->p = get_handle(&r, epoch);
			break;
		case 'u':
			*(CK_ULONG *)args++->p = get_ulong(&r);
			break;
		case 'r': {
			CK_RV theirs = get_ulong(&r);
			if (theirs != CKR_OK)
				rv = theirs;
			break;
		}
		default: /* 'a' */
			s++;
			if (*s == 'y')
				rv = get_room(&r, room);
			else if (*s == 'A')
				rv = get_attributes(&r, room[0].p, room[1].n);
			else
				rv = get_numbers(&r, room, *s == 'o', epoch);
			break;
		}
	}
	return returned(&r, rv);
}

CK_RV rpc_run(struct conn *c, enum call id, const union argument *args)
{
	struct buffer request = {0}, reply = {0};
	CK_RV rv = rpc_prepare(id, args, conn_epoch(c), conn_version(c), &request);
	if (rv == CKR_OK)
		rv = conn_call(c, &request, &reply);
	buffer_free(&request);
	if (rv == CKR_OK)
		rv = rpc_finish(id, args, conn_epoch(c), &reply);
	buffer_free(&reply);
	return rv;
}

CK_RV rpc_hello(struct conn *c)
{
	/* The words that p11-kit's server, and so keyringd, wants to hear. */
	static char words[] = "PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1";
	static char nothing[] = "";
	return rpc_run(c, CALL_Initialize, (const union argument[]){
		{.p = words}, {.n = sizeof words - 1}, /* without the NUL */
		{.n = 0},
		{.p = nothing}, {.n = 1},
	});
}
