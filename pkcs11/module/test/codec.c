/*
 * codec.c: the marshaller by itself. First what it writes and reads, byte for
 * byte; then a few hundred thousand replies with something wrong in them, which
 * must neither crash nor write beyond what the caller gave.
 *
 *   codec [ROUNDS [SEED]]
 */
#include "rpc.c" /* to walk over its table */
#include "test.h"

/* Everything a call can need, on the heap and of exact size, so that
 * AddressSanitizer sees a step beyond. */
static char word[] = "0123456789";

struct given {
	union argument args[12];
	void *owned[32];
	unsigned count;
};

static void *own(struct given *g, size_t n)
{
	void *p = malloc(n > 0 ? n : 1);
	CHECK(p != NULL && g->count < sizeof g->owned / sizeof g->owned[0]);
	memset(p, 0xA5, n);
	return g->owned[g->count++] = p;
}

static void release(struct given *g)
{
	while (g->count > 0)
		free(g->owned[--g->count]);
}

static const CK_ATTRIBUTE_TYPE asked[] = {CKA_LABEL, CKA_CLASS, CKA_TOKEN, CKA_START_DATE, CKA_ALLOWED_MECHANISMS,
	CKA_WRAP_TEMPLATE, CKA_VALUE};
#define ASKED (sizeof asked / sizeof asked[0])

static CK_ATTRIBUTE *attributes(struct given *g, size_t room)
{
	CK_ATTRIBUTE *a = own(g, sizeof(CK_ATTRIBUTE) * ASKED);
	for (size_t i = 0; i < ASKED; i++)
		a[i] = (CK_ATTRIBUTE){asked[i], room > 0 ? own(g, room) : NULL, room};
	return a;
}

static size_t structure_size(enum call id)
{
	switch (id) {
	case CALL_GetInfo: return sizeof(CK_INFO);
	case CALL_GetSlotInfo: return sizeof(CK_SLOT_INFO);
	case CALL_GetTokenInfo: return sizeof(CK_TOKEN_INFO);
	case CALL_GetSessionInfo: return sizeof(CK_SESSION_INFO);
	default: return sizeof(CK_MECHANISM_INFO);
	}
}

/* give makes arguments for a call, with that much room for each answer. */
static void give(struct given *g, enum call id, size_t room)
{
	static CK_MECHANISM mechanism = {.mechanism = CKM_ECDSA};
	static CK_ATTRIBUTE label = {CKA_LABEL, word, 3};
	union argument *a = g->args;
	*g = (struct given){0};
	for (const char *s = calls[id].request; *s != '\0'; s++) {
		CK_ULONG *n;
		switch (*s) {
		case 'z':
			a++->p = word;
			break;
		case 'M':
			a++->p = &mechanism;
			break;
		case 'a':
			a++->p = *++s == 'A' ? (void *)&label : word;
			a++->n = *s == 'A' ? 1 : 4;
			break;
		case 'f':
			if (*++s == 'A') {
				a++->p = attributes(g, room);
				a++->n = ASKED;
				break;
			}
			n = own(g, sizeof *n);
			*n = room;
			a++->p = room > 0 ? own(g, room * (*s == 'u' ? sizeof *n : 1)) : NULL;
			a++->p = n;
			break;
		default: /* handles are of connection 3 */
			a++->n = strchr("hok", *s) != NULL ? (CK_ULONG)3 << EPOCH_SHIFT | 1 : 1;
		}
	}
	for (const char *s = calls[id].reply; *s != '\0' && *s != 'a'; s++) {
		a++->p = own(g, *s == '{' ? structure_size(id) : sizeof(CK_ULONG));
		if (*s == '{')
			break;
	}
}

/* good_reply writes what an honest peer answers. */
static void good_reply(struct buffer *b, enum call id, size_t room)
{
	uint8_t signature[SIGNATURE_MAX];
	put_u32(b, id);
	put_bytes(b, signature, wire_signature(calls[id].reply, signature));
	for (const char *s = calls[id].reply; *s != '\0'; s++) {
		switch (*s) {
		case '{':
			break;
		case 'v':
			put_byte(b, 2);
			put_byte(b, 40);
			break;
		case 's': {
			char text[64] = "text";
			put_bytes(b, text, (size_t)(s[1] - '0') * 10 + (size_t)(s[2] - '0'));
			s += 2;
			break;
		}
		case 'a': {
			CK_ULONG mechanisms[2] = {CKM_ECDSA, CKM_RSA_PKCS}, class = CKO_PUBLIC_KEY;
			CK_BYTE yes = 1;
			CK_ATTRIBUTE values[ASKED] = {
				{CKA_LABEL, word, 5}, {CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, 1},
				{CKA_START_DATE, NULL, 0}, {CKA_ALLOWED_MECHANISMS, mechanisms, sizeof mechanisms},
				{CKA_VALUE, word, 10},
			};
			if (*++s == 'A') {
				CHECK(put_template(b, values, ASKED - 1) == CKR_OK);
				break;
			}
			put_byte(b, room > 0);
			put_u32(b, 4);
			for (int i = 0; room > 0 && i < (*s == 'y' ? 1 : 8); i++)
				put_u32(b, 7);
			break;
		}
		case 'r':
			put_ulong(b, 0);
			break;
		default:
			put_ulong(b, 9);
		}
	}
}

static CK_RV finish(enum call id, size_t room, const uint8_t *p, size_t n)
{
	struct given g;
	struct buffer reply = {.data = malloc(n > 0 ? n : 1), .len = n, .cap = n};
	CHECK(reply.data != NULL);
	memcpy(reply.data, p, n);
	give(&g, id, room);
	CK_RV rv = rpc_finish(id, g.args, 3, &reply);
	buffer_free(&reply);
	release(&g);
	return rv;
}

static void test_round_trips(void)
{
	for (enum call id = 1; id < CALL_COUNT; id++) {
		for (size_t room = 0; room <= 64; room += 64) {
			struct buffer b = {0};
			struct given g;
			give(&g, id, room);
			WANT(rpc_prepare(id, g.args, 3, 2, &b), CKR_OK);
			buffer_free(&b);
			release(&g);

			good_reply(&b, id, room);
			CK_RV rv = finish(id, room, b.data, b.len);
			CHECK(rv == CKR_OK || (id == CALL_GetAttributeValue && rv == CKR_ATTRIBUTE_TYPE_INVALID));
			/* Nothing may be missing, and nothing be left over. */
			for (size_t n = 0; n < b.len; n++)
				WANT(finish(id, room, b.data, n), CKR_DEVICE_ERROR);
			put_byte(&b, 0);
			WANT(finish(id, room, b.data, b.len), CKR_DEVICE_ERROR);
			buffer_free(&b);
		}
	}
}

static void test_bytes(void)
{
	/* C_Sign on session 1, "hi", room for 64: written by hand. */
	static const uint8_t want[] = {
		0, 0, 0, 43, 0, 0, 0, 5, 'u', 'a', 'y', 'f', 'y', 0, 0, 0, 0, 0, 0, 0, 1,
		1, 0, 0, 0, 2, 'h', 'i', 0, 0, 0, 64};
	struct buffer b = {0};
	CK_BYTE out[64];
	CK_ULONG n = sizeof out;
	WANT(rpc_prepare(CALL_Sign, (union argument[]){{.n = 1}, {.p = (char[]){"hi"}}, {.n = 2}, {.p = out}, {.p = &n}}, 0, 2, &b),
		CKR_OK);
	CHECK(b.len == FRAME_HEADER + sizeof want && memcmp(b.data + FRAME_HEADER, want, sizeof want) == 0);
	buffer_free(&b);

	/* A PIN of NULL is not an empty one: it asks for the token's own way. */
	WANT(rpc_prepare(CALL_Login, (union argument[]){{.n = 1}, {.n = 1}, {.p = NULL}, {.n = 0}}, 0, 2, &b), CKR_OK);
	CHECK(memcmp(b.data + b.len - 5, "\1\377\377\377\377", 5) == 0);
	buffer_free(&b);
	WANT(rpc_prepare(CALL_Login, (union argument[]){{.n = 1}, {.n = 1}, {.p = ""}, {.n = 0}}, 0, 2, &b), CKR_OK);
	CHECK(memcmp(b.data + b.len - 5, "\1\0\0\0\0", 5) == 0);
	buffer_free(&b);
	WANT(rpc_prepare(CALL_Login, (union argument[]){{.n = 1}, {.n = 1}, {.p = NULL}, {.n = 4}}, 0, 2, &b), CKR_ARGUMENTS_BAD);
	buffer_free(&b);
}

static CK_RV mechanism(struct buffer *b, uint8_t version, CK_MECHANISM_TYPE type, void *p, CK_ULONG n)
{
	CK_MECHANISM m = {type, p, n};
	*b = (struct buffer){0};
	return put_mechanism(b, &m, version);
}

static void test_mechanisms(void)
{
	struct buffer b;
	CK_RSA_PKCS_PSS_PARAMS pss = {CKM_SHA256, CKG_MGF1_SHA256, 32};
	CK_BYTE unaligned[1 + sizeof pss] = {0};

	WANT(mechanism(&b, 0, CKM_ECDSA, NULL, 0), CKR_OK);
	CHECK(b.len == 8 && memcmp(b.data, "\0\0\x10\x41\377\377\377\377", 8) == 0);
	buffer_free(&b);
	WANT(mechanism(&b, 2, CKM_ECDSA, NULL, 0), CKR_OK);
	CHECK(b.len == 4);
	buffer_free(&b);
	WANT(mechanism(&b, 2, CKM_EDDSA, NULL, 0), CKR_OK); /* may take one */
	CHECK(b.len == 5 && b.data[4] == 0);
	buffer_free(&b);
	WANT(mechanism(&b, 2, CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss), CKR_OK);
	CHECK(b.len == 4 + 1 + 24 && b.data[4] == 1 && b.data[28] == 32);
	buffer_free(&b);
	WANT(mechanism(&b, 1, CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss), CKR_OK);
	CHECK(b.len == 4 + 24);
	buffer_free(&b);
	WANT(mechanism(&b, 0, CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss), CKR_OK);
	CHECK(b.len == 4 + 4 + sizeof pss); /* as it is in memory */
	buffer_free(&b);
	WANT(mechanism(&b, 2, CKM_RSA_PKCS_PSS, unaligned + 1, sizeof pss), CKR_OK);
	buffer_free(&b);

	/* What cannot be carried is refused, and no memory is sent instead. */
	static const struct { CK_MECHANISM_TYPE type; CK_ULONG n; CK_RV want; } bad[] = {
		{CKM_RSA_PKCS_PSS, sizeof pss - 1, CKR_MECHANISM_PARAM_INVALID},
		{CKM_RSA_PKCS_OAEP, sizeof pss, CKR_MECHANISM_PARAM_INVALID},
		{CKM_ECDSA, 8, CKR_MECHANISM_PARAM_INVALID},
		{0x1087 /* AES-GCM */, 24, CKR_MECHANISM_PARAM_INVALID},
		{0xffffffff, 0, CKR_MECHANISM_INVALID},
		{0x100000001, 0, CKR_MECHANISM_INVALID},
	};
	for (uint8_t version = 0; version <= 2; version++)
		for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
			if (version == 0 && i == 0)
				continue;
			WANT(mechanism(&b, version, bad[i].type, &pss, bad[i].n), bad[i].want);
			buffer_free(&b);
		}
	WANT(mechanism(&b, 2, CKM_RSA_PKCS_PSS, NULL, sizeof pss), CKR_MECHANISM_PARAM_INVALID);
	buffer_free(&b);
}

static void test_templates(void)
{
	/* Depth 8 goes, 9 does not. */
	CK_ATTRIBUTE nest[WIRE_MAX_DEPTH + 2];
	for (int depth = WIRE_MAX_DEPTH; depth <= WIRE_MAX_DEPTH + 1; depth++) {
		struct buffer b = {0};
		nest[0] = (CK_ATTRIBUTE){CKA_LABEL, (char[]){"x"}, 1};
		for (int i = 1; i <= depth; i++)
			nest[i] = (CK_ATTRIBUTE){CKA_WRAP_TEMPLATE, &nest[i - 1], sizeof nest[0]};
		WANT(put_template(&b, &nest[depth], 1), depth <= WIRE_MAX_DEPTH ? CKR_OK : CKR_ATTRIBUTE_VALUE_INVALID);
		buffer_free(&b);
	}
	static const CK_ATTRIBUTE bad[] = {
		{CKA_CLASS, word, 7}, {CKA_TOKEN, word, 2}, {CKA_START_DATE, word, 1}, {CKA_LABEL, NULL, 5},
		{CKA_LABEL, word, CK_UNAVAILABLE_INFORMATION}, {CKA_ALLOWED_MECHANISMS, word, 1},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct buffer b = {0};
		WANT(put_template(&b, &bad[i], 1), CKR_ATTRIBUTE_VALUE_INVALID);
		buffer_free(&b);
	}
}

static void test_handles(void)
{
	struct buffer b = {0};
	/* One from another connection is no longer valid, whatever its number. */
	WANT(rpc_prepare(CALL_CloseSession, (union argument[]){{.n = 1}}, 3, 2, &b), CKR_SESSION_HANDLE_INVALID);
	buffer_free(&b);
	CK_ULONG mine = 3ul << EPOCH_SHIFT | 1;
	WANT(rpc_prepare(CALL_DestroyObject, (union argument[]){{.n = mine}, {.n = 1}}, 3, 2, &b), CKR_OBJECT_HANDLE_INVALID);
	buffer_free(&b);
	WANT(rpc_prepare(CALL_DigestKey, (union argument[]){{.n = mine}, {.n = 1}}, 3, 2, &b), CKR_KEY_HANDLE_INVALID);
	buffer_free(&b);
	WANT(rpc_prepare(CALL_DigestKey, (union argument[]){{.n = mine}, {.n = mine}}, 3, 2, &b), CKR_OK);
	CHECK(memcmp(b.data + b.len - 8, "\0\0\0\0\0\0\0\1", 8) == 0);
	buffer_free(&b);
}

static void test_mutations(unsigned long rounds, unsigned long long seed)
{
	static const uint8_t likely[] = {0, 1, 2, 0x7f, 0x80, 0xff};
	for (unsigned long i = 0; i < rounds; i++) {
		enum call id = 1 + next_random(&seed) % (CALL_COUNT - 1);
		size_t room = next_random(&seed) % 3 * 8;
		struct buffer b = {0};
		good_reply(&b, id, room);
		for (unsigned n = 1 + next_random(&seed) % 4; n > 0 && b.len > 0; n--) {
			size_t at = next_random(&seed) % b.len;
			switch (next_random(&seed) % 5) {
			case 0:
				b.data[at] ^= (uint8_t)(1u << next_random(&seed) % 8);
				break;
			case 1:
				b.data[at] = likely[next_random(&seed) % sizeof likely];
				break;
			case 2: /* a length, maybe */
				if (b.len - at >= 4)
					store_u32(b.data + at, next_random(&seed) % 2 ? UINT32_MAX - next_random(&seed) % 9 : next_random(&seed) % 300);
				break;
			case 3:
				b.len = at;
				break;
			default:
				for (unsigned k = next_random(&seed) % 40; k > 0; k--)
					put_byte(&b, (uint8_t)next_random(&seed));
			}
		}
		finish(id, room, b.data != NULL ? b.data : (const uint8_t *)"", b.len);
		buffer_free(&b);
	}
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 200000;
	unsigned long long seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 88172645463325252ull;
	test_bytes();
	test_mechanisms();
	test_templates();
	test_handles();
	test_round_trips();
	test_mutations(rounds, seed);
	printf("codec: ok, %lu replies with something wrong in them\n", rounds);
	return 0;
}
