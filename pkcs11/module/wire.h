/*
 * wire.h: how values look on the wire of p11-kit's RPC protocol.
 *
 * All numbers are big-endian. A writer grows a buffer, a reader walks over
 * bytes that somebody else owns; both remember that something went wrong, so
 * that a caller checks once at the end.
 */
#ifndef KEYRINGD_WIRE_H
#define KEYRINGD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cryptoki.h"

/*
 * The largest body of a frame, in either direction, as in pkcs11/p11rpc. A
 * length from the wire is held against it before anything is allocated, and a
 * request that would be larger is refused here: the daemon would hang up.
 */
#define WIRE_MAX_BODY (1u << 20)

/* Templates within templates: the depth that p11-kit allows, too. */
#define WIRE_MAX_DEPTH 8

/* A buffer owns its bytes. A zero one is empty and ready for use. */
struct buffer {
	uint8_t *data;
	size_t len, cap;
	bool failed; /* out of memory, or larger than a frame may be */
};

/* buffer_free wipes what the buffer held: it may have been a PIN. */
void buffer_free(struct buffer *b);
/* buffer_extend returns room for n more bytes, or NULL with b->failed set. */
uint8_t *buffer_extend(struct buffer *b, size_t n);
void put_byte(struct buffer *b, uint8_t v);
void put_u32(struct buffer *b, uint32_t v);
/* put_ulong writes 64 bits; all ones stay all ones on every word size. */
void put_ulong(struct buffer *b, CK_ULONG v);
/* put_bytes writes a length and the bytes; NULL has a length of all ones. */
void put_bytes(struct buffer *b, const void *p, size_t n);
/* store_u32 writes to four bytes that are already there. */
void store_u32(uint8_t *p, uint32_t v);

/*
 * put_template writes attributes with their values, put_room only their types
 * and how much the caller can take. put_room leaves out those that cannot be
 * read through this protocol; get_attributes knows it.
 */
CK_RV put_template(struct buffer *b, const CK_ATTRIBUTE *a, CK_ULONG count);
void put_room(struct buffer *b, const CK_ATTRIBUTE *a, CK_ULONG count);

/* put_mechanism writes a mechanism as a peer that speaks version reads it. */
CK_RV put_mechanism(struct buffer *b, const CK_MECHANISM *m, uint8_t version);

/* A reader borrows its bytes. After a failure it yields zeros. */
struct reader {
	const uint8_t *p;
	size_t left;
	bool failed;
};

uint8_t get_byte(struct reader *r);
uint32_t get_u32(struct reader *r);
/* get_ulong fails on a number that this platform's CK_ULONG cannot hold. */
CK_ULONG get_ulong(struct reader *r);
/* get_bytes sets *n and returns borrowed bytes: NULL for the NULL array. */
const uint8_t *get_bytes(struct reader *r, size_t *n);

/*
 * get_attributes reads the values that put_room asked for into the caller's
 * attributes, by the rules of C_GetAttributeValue: CKR_BUFFER_TOO_SMALL and
 * CKR_ATTRIBUTE_TYPE_INVALID leave CK_UNAVAILABLE_INFORMATION behind. The
 * caller adds the code of the peer, which comes after.
 */
CK_RV get_attributes(struct reader *r, CK_ATTRIBUTE *a, CK_ULONG count);

#endif
