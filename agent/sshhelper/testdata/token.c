/*
 * A security key for tests, as a library that ssh-sk-helper loads (OpenSSH,
 * PROTOCOL.u2f and sk-api.h, version 10). Its key handle is an Ed25519 seed. A
 * key that wants its user verified has the PIN "1234".
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/sha.h>

#define API_VERSION 0x000a0000
#define ALG_ED25519 1
#define FLAG_VERIFICATION 4
#define ERR_GENERAL (-1)
#define ERR_UNSUPPORTED (-2)
#define ERR_PIN_REQUIRED (-3)

struct sign_response {
	uint8_t flags;
	uint32_t counter;
	uint8_t *r;
	size_t r_len;
	uint8_t *s;
	size_t s_len;
};

uint32_t sk_api_version(void) { return API_VERSION; }

int sk_enroll(void) { return ERR_UNSUPPORTED; }

int sk_load_resident_keys(void) { return ERR_UNSUPPORTED; }

int sk_sign(uint32_t alg, const uint8_t *data, size_t len, const char *application, const uint8_t *handle, size_t handle_len,
    uint8_t flags, const char *pin, void **options, struct sign_response **response)
{
	(void)options;
	if (alg != ALG_ED25519 || handle_len != 32)
		return ERR_UNSUPPORTED;
	if ((flags & FLAG_VERIFICATION) && (pin == NULL || strcmp(pin, "1234") != 0))
		return ERR_PIN_REQUIRED;
	if (len == 5 && memcmp(data, "crash", 5) == 0)
		abort();

	/* What a token signs: WebAuthn, "Authenticator Data", and the client's hash. */
	uint8_t signed_data[32 + 1 + 4 + 32];
	SHA256((const uint8_t *)application, strlen(application), signed_data);
	signed_data[32] = flags;
	memcpy(signed_data + 33, "\0\0\0\7", 4);
	SHA256(data, len, signed_data + 37);

	struct sign_response *out = calloc(1, sizeof(*out));
	EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, handle, handle_len);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (out == NULL || key == NULL || ctx == NULL || (out->r = malloc(64)) == NULL)
		return ERR_GENERAL;
	out->flags = flags;
	out->counter = 7;
	out->r_len = 64;
	if (EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) != 1 ||
	    EVP_DigestSign(ctx, out->r, &out->r_len, signed_data, sizeof(signed_data)) != 1)
		return ERR_GENERAL;
	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	*response = out;
	return 0;
}
