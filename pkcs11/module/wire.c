#define _GNU_SOURCE /* explicit_bzero */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

void buffer_free(struct buffer *b)
{
	if (b->data != NULL)
		explicit_bzero(b->data, b->cap);
	free(b->data);
	*b = (struct buffer){0};
}

uint8_t *buffer_extend(struct buffer *b, size_t n)
{
	/* Room for a frame's header comes on top of the body. */
	const size_t limit = (size_t)WIRE_MAX_BODY + 64;

	if (b->failed || n > limit || b->len > limit - n) {
		b->failed = true;
		return NULL;
	}
	if (b->len + n > b->cap) {
		size_t cap = b->cap < 256 ? 256 : b->cap * 2;
		if (cap < b->len + n)
			cap = b->len + n;
		/* Not realloc, which may leave a copy of a PIN behind. */
		uint8_t *bigger = malloc(cap);
		if (bigger == NULL) {
			b->failed = true;
			return NULL;
		}
		if (b->len > 0)
			memcpy(bigger, b->data, b->len);
		if (b->data != NULL)
			explicit_bzero(b->data, b->cap);
		free(b->data);
		b->data = bigger;
		b->cap = cap;
	}
	uint8_t *p = b->data + b->len;
	b->len += n;
	return p;
}

void store_u32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

void put_byte(struct buffer *b, uint8_t v)
{
	uint8_t *p = buffer_extend(b, 1);
	if (p != NULL)
		*p = v;
}

void put_u32(struct buffer *b, uint32_t v)
{
	uint8_t *p = buffer_extend(b, 4);
	if (p != NULL)
		store_u32(p, v);
}

void put_ulong(struct buffer *b, CK_ULONG v)
{
	uint64_t wide = v == CK_UNAVAILABLE_INFORMATION ? UINT64_MAX : (uint64_t)v;
	put_u32(b, (uint32_t)(wide >> 32));
	put_u32(b, (uint32_t)wide);
}

void put_bytes(struct buffer *b, const void *p, size_t n)
{
	if (p == NULL) {
		put_u32(b, UINT32_MAX);
		return;
	}
	if (n > WIRE_MAX_BODY) {
		b->failed = true;
		return;
	}
	put_u32(b, (uint32_t)n);
	uint8_t *to = buffer_extend(b, n);
	if (to != NULL && n > 0)
		memcpy(to, p, n);
}

static const uint8_t *take(struct reader *r, size_t n)
{
	if (r->failed || n > r->left) {
		r->failed = true;
		return NULL;
	}
	const uint8_t *p = r->p;
	r->p += n;
	r->left -= n;
	return p;
}

uint8_t get_byte(struct reader *r)
{
	const uint8_t *p = take(r, 1);
	return p != NULL ? *p : 0;
}

uint32_t get_u32(struct reader *r)
{
	const uint8_t *p = take(r, 4);
	if (p == NULL)
		return 0;
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

CK_ULONG get_ulong(struct reader *r)
{
	uint64_t high = get_u32(r);
	uint64_t v = high << 32 | get_u32(r);
	if (v == UINT64_MAX)
		return CK_UNAVAILABLE_INFORMATION;
	if (v > (CK_ULONG)-2) {
		r->failed = true;
		return 0;
	}
	return (CK_ULONG)v;
}

const uint8_t *get_bytes(struct reader *r, size_t *n)
{
	uint32_t len = get_u32(r);
	*n = 0;
	if (r->failed || len == UINT32_MAX)
		return NULL;
	const uint8_t *p = take(r, len);
	if (p != NULL)
		*n = len;
	return p;
}

/*
 * An attribute's value goes over the wire in the form of its type, and nothing
 * on the wire says which form it is: both ends know the same list.
 */
enum form { FORM_BYTES, FORM_BYTE, FORM_ULONG, FORM_DATE, FORM_MECHANISMS, FORM_TEMPLATE };

static enum form form_of(CK_ATTRIBUTE_TYPE type)
{
	switch (type) {
	case CKA_TOKEN: case CKA_PRIVATE: case CKA_TRUSTED: case CKA_SENSITIVE:
	case CKA_ENCRYPT: case CKA_DECRYPT: case CKA_WRAP: case CKA_UNWRAP:
	case CKA_SIGN: case CKA_SIGN_RECOVER: case CKA_VERIFY: case CKA_VERIFY_RECOVER:
	case CKA_DERIVE: case CKA_EXTRACTABLE: case CKA_LOCAL: case CKA_NEVER_EXTRACTABLE:
	case CKA_ALWAYS_SENSITIVE: case CKA_MODIFIABLE: case CKA_COPYABLE:
	case CKA_SECONDARY_AUTH: case CKA_ALWAYS_AUTHENTICATE: case CKA_WRAP_WITH_TRUSTED:
	case CKA_RESET_ON_INIT: case CKA_HAS_RESET: case CKA_COLOR:
		return FORM_BYTE;
	case CKA_CLASS: case CKA_CERTIFICATE_TYPE: case CKA_CERTIFICATE_CATEGORY:
	case CKA_JAVA_MIDP_SECURITY_DOMAIN: case CKA_KEY_TYPE: case CKA_MODULUS_BITS:
	case CKA_PRIME_BITS: case CKA_SUBPRIME_BITS: case CKA_VALUE_BITS: case CKA_VALUE_LEN:
	case CKA_KEY_GEN_MECHANISM: case CKA_AUTH_PIN_FLAGS: case CKA_HW_FEATURE_TYPE:
	case CKA_PIXEL_X: case CKA_PIXEL_Y: case CKA_RESOLUTION: case CKA_CHAR_ROWS:
	case CKA_CHAR_COLUMNS: case CKA_BITS_PER_PIXEL: case CKA_MECHANISM_TYPE:
		return FORM_ULONG;
	case CKA_START_DATE: case CKA_END_DATE:
		return FORM_DATE;
	case CKA_ALLOWED_MECHANISMS:
		return FORM_MECHANISMS;
	case CKA_WRAP_TEMPLATE: case CKA_UNWRAP_TEMPLATE: case CKA_DERIVE_TEMPLATE:
		return FORM_TEMPLATE;
	default:
		return FORM_BYTES;
	}
}

static CK_RV put_attributes(struct buffer *b, const CK_ATTRIBUTE *a, CK_ULONG count, int depth);

static CK_RV put_attribute(struct buffer *b, const CK_ATTRIBUTE *a, int depth)
{
	CK_ULONG n = a->ulValueLen;
	if (a->type > UINT32_MAX)
		return CKR_ATTRIBUTE_TYPE_INVALID;
	if (n > WIRE_MAX_BODY || (n > 0 && a->pValue == NULL))
		return CKR_ATTRIBUTE_VALUE_INVALID;
	put_u32(b, (uint32_t)a->type);
	put_byte(b, 1);

	/* Lengths are those of a 64-bit peer, which is what a daemon is. */
	switch (form_of(a->type)) {
	case FORM_BYTE:
		if (n > 1)
			return CKR_ATTRIBUTE_VALUE_INVALID;
		put_u32(b, (uint32_t)n);
		put_byte(b, n == 1 ? *(const CK_BYTE *)a->pValue : 0);
		return CKR_OK;
	case FORM_ULONG: {
		CK_ULONG v = 0; /* memcpy: a caller's value need not be aligned */
		if (n != 0 && n != sizeof v)
			return CKR_ATTRIBUTE_VALUE_INVALID;
		if (n != 0)
			memcpy(&v, a->pValue, sizeof v);
		put_u32(b, n != 0 ? 8 : 0);
		put_ulong(b, v);
		return CKR_OK;
	}
	case FORM_MECHANISMS: {
		CK_ULONG v, i, count = n / sizeof v;
		if (n % sizeof v != 0)
			return CKR_ATTRIBUTE_VALUE_INVALID;
		put_u32(b, (uint32_t)(count * 8));
		put_u32(b, (uint32_t)count);
		for (i = 0; i < count; i++) {
			memcpy(&v, (const CK_BYTE *)a->pValue + i * sizeof v, sizeof v);
			put_ulong(b, v);
		}
		return CKR_OK;
	}
	case FORM_TEMPLATE:
		if (n % sizeof(CK_ATTRIBUTE) != 0 || depth >= WIRE_MAX_DEPTH)
			return CKR_ATTRIBUTE_VALUE_INVALID;
		put_u32(b, (uint32_t)(n / sizeof(CK_ATTRIBUTE) * 24));
		return put_attributes(b, a->pValue, n / sizeof(CK_ATTRIBUTE), depth + 1);
	case FORM_DATE:
		if (n != 0 && n != sizeof(CK_DATE))
			return CKR_ATTRIBUTE_VALUE_INVALID;
		break;
	case FORM_BYTES:
		break;
	}
	put_u32(b, (uint32_t)n);
	put_bytes(b, n > 0 ? a->pValue : "", n);
	return CKR_OK;
}

static CK_RV put_attributes(struct buffer *b, const CK_ATTRIBUTE *a, CK_ULONG count, int depth)
{
	if (count > WIRE_MAX_BODY)
		return CKR_ARGUMENTS_BAD;
	put_u32(b, (uint32_t)count);
	for (CK_ULONG i = 0; i < count && !b->failed; i++) {
		CK_RV rv = put_attribute(b, &a[i], depth);
		if (rv != CKR_OK)
			return rv;
	}
	return CKR_OK;
}

CK_RV put_template(struct buffer *b, const CK_ATTRIBUTE *a, CK_ULONG count)
{
	return put_attributes(b, a, count, 0);
}

/*
 * Templates in templates are not read: the caller's inner buffers cannot be
 * told to the peer, and p11-kit up to 0.24 crashes on the question. The answer
 * is that such an attribute is not to be had.
 */
static bool readable(const CK_ATTRIBUTE *a)
{
	return form_of(a->type) != FORM_TEMPLATE && a->type <= UINT32_MAX;
}

/*
 * How much a caller asks for a list of mechanisms, always: p11-kit answers a
 * question for its length alone with something that cannot be read.
 */
#define MECHANISMS_ROOM 4096

static uint32_t room_of(const CK_ATTRIBUTE *a)
{
	CK_ULONG n = a->pValue != NULL ? a->ulValueLen : 0;
	switch (form_of(a->type)) {
	case FORM_MECHANISMS:
		return MECHANISMS_ROOM;
	case FORM_ULONG: /* the peer's CK_ULONG may be wider than ours */
		return n >= sizeof(CK_ULONG) ? 8 : 0;
	default:
		return n > WIRE_MAX_BODY ? WIRE_MAX_BODY : (uint32_t)n;
	}
}

void put_room(struct buffer *b, const CK_ATTRIBUTE *a, CK_ULONG count)
{
	uint32_t asked = 0;
	for (CK_ULONG i = 0; i < count; i++)
		asked += readable(&a[i]);
	put_u32(b, asked);
	for (CK_ULONG i = 0; i < count && !b->failed; i++) {
		if (!readable(&a[i]))
			continue;
		put_u32(b, (uint32_t)a[i].type);
		put_u32(b, room_of(&a[i]));
	}
}

/* deliver gives n bytes to the caller; from is NULL when only n is known. */
static CK_RV deliver(struct reader *r, CK_ATTRIBUTE *a, const void *from, size_t n)
{
	if (r->failed)
		return CKR_DEVICE_ERROR;
	if (a->pValue == NULL) {
		a->ulValueLen = n;
		return CKR_OK;
	}
	if (a->ulValueLen < n) {
		a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return CKR_BUFFER_TOO_SMALL;
	}
	if (from == NULL && n > 0) { /* there was room, and no value came */
		r->failed = true;
		return CKR_DEVICE_ERROR;
	}
	if (n > 0)
		memcpy(a->pValue, from, n);
	a->ulValueLen = n;
	return CKR_OK;
}

static CK_RV get_mechanisms(struct reader *r, CK_ATTRIBUTE *a, uint32_t length)
{
	uint32_t count = get_u32(r);
	if (r->failed || count > r->left / 8 || count > MECHANISMS_ROOM / 8 || length / 8 != count) {
		r->failed = true;
		return CKR_DEVICE_ERROR;
	}
	CK_ULONG values[MECHANISMS_ROOM / 8];
	for (uint32_t i = 0; i < count; i++)
		values[i] = get_ulong(r);
	return deliver(r, a, values, count * sizeof values[0]);
}

static CK_RV get_attribute(struct reader *r, CK_ATTRIBUTE *a)
{
	uint32_t type = get_u32(r);
	uint8_t valid = get_byte(r);
	if (type != a->type || valid > 1)
		r->failed = true;
	if (r->failed)
		return CKR_DEVICE_ERROR;
	if (!valid) {
		a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return CKR_OK; /* the peer's code says why */
	}

	uint32_t length = get_u32(r);
	switch (form_of(type)) {
	case FORM_BYTE: {
		CK_BYTE v = get_byte(r);
		return deliver(r, a, &v, length > 0 ? 1 : 0);
	}
	case FORM_ULONG: {
		CK_ULONG v = get_ulong(r);
		return deliver(r, a, &v, length > 0 ? sizeof v : 0);
	}
	case FORM_MECHANISMS:
		return get_mechanisms(r, a, length);
	case FORM_DATE:
	case FORM_BYTES: {
		size_t n;
		const uint8_t *p = get_bytes(r, &n);
		if (p != NULL && n != length)
			r->failed = true;
		return deliver(r, a, p, length);
	}
	case FORM_TEMPLATE: /* was never asked for */
		break;
	}
	r->failed = true;
	return CKR_DEVICE_ERROR;
}

CK_RV get_attributes(struct reader *r, CK_ATTRIBUTE *a, CK_ULONG count)
{
	CK_RV rv = CKR_OK;
	uint32_t asked = 0, came = get_u32(r);

	for (CK_ULONG i = 0; i < count; i++)
		asked += readable(&a[i]);
	if (came != asked)
		r->failed = true;
	for (CK_ULONG i = 0; i < count && !r->failed; i++) {
		CK_RV one;
		if (readable(&a[i])) {
			one = get_attribute(r, &a[i]);
		} else {
			a[i].ulValueLen = CK_UNAVAILABLE_INFORMATION;
			one = CKR_ATTRIBUTE_TYPE_INVALID;
		}
		if (rv == CKR_OK)
			rv = one;
	}
	return r->failed ? CKR_DEVICE_ERROR : rv;
}
