/*
 * How a mechanism and its parameter go over the wire. It depends on the version
 * that the peer answered:
 *
 *   0  p11-kit up to 0.24: the type, then PSS and OAEP parameters field by
 *      field, and for every other mechanism the parameter as bytes
 *   1  p11-kit 0.25.0 to 0.25.5: the same, with more parameters field by field
 *   2  p11-kit 0.25.6 and newer, and keyringd: nothing at all follows a
 *      mechanism that takes no parameter; for all others a byte says whether a
 *      parameter follows
 */
#include "wire.h"

#include <string.h>

enum parameter { PARAMETER_UNKNOWN, PARAMETER_PSS, PARAMETER_OAEP, PARAMETER_ECDH1, PARAMETER_IV };

static enum parameter parameter_of(CK_MECHANISM_TYPE type)
{
	switch (type) {
	case CKM_RSA_PKCS_PSS: case CKM_SHA1_RSA_PKCS_PSS: case CKM_SHA224_RSA_PKCS_PSS:
	case CKM_SHA256_RSA_PKCS_PSS: case CKM_SHA384_RSA_PKCS_PSS: case CKM_SHA512_RSA_PKCS_PSS:
		return PARAMETER_PSS;
	case CKM_RSA_PKCS_OAEP:
		return PARAMETER_OAEP;
	case CKM_ECDH1_DERIVE: case CKM_ECDH1_COFACTOR_DERIVE:
		return PARAMETER_ECDH1;
	case CKM_AES_CBC: case CKM_AES_CBC_PAD: case CKM_DES_CBC: case CKM_DES_CBC_PAD:
	case CKM_DES3_CBC: case CKM_DES3_CBC_PAD:
		return PARAMETER_IV;
	default:
		return PARAMETER_UNKNOWN;
	}
}

/*
 * The mechanisms that take no parameter, as version 2 has them: both ends must
 * agree, as nothing on the wire tells. Those of ciphers long dead are left out.
 */
static bool takes_none(CK_MECHANISM_TYPE type)
{
	static const struct {
		uint16_t first, last;
	} none[] = {
		{0x0000, 0x0008}, /* RSA key pairs, RSA_PKCS, 9796, X_509, MD2, MD5, SHA1, RIPEMD */
		{0x000A, 0x000C}, /* X9.31 */
		{0x0010, 0x0012}, /* DSA */
		{0x0020, 0x0020}, /* DH key pairs */
		{0x0030, 0x0030}, /* X9.42 key pairs */
		{0x0040, 0x0042}, /* SHA256, SHA384, SHA512 with RSA_PKCS */
		{0x0046, 0x0046}, /* SHA224 with RSA_PKCS */
		{0x0048, 0x0049}, {0x004B, 0x004D}, {0x004F, 0x0051}, {0x0053, 0x0053}, /* SHA512/t */
		{0x0110, 0x0111}, /* RC4 */
		{0x0120, 0x0121}, {0x0123, 0x0123}, /* DES */
		{0x0130, 0x0132}, {0x0134, 0x0134}, {0x0138, 0x0138}, /* DES3 */
		{0x0200, 0x0201}, {0x0210, 0x0211}, {0x0220, 0x0221}, /* MD2, MD5, SHA-1 */
		{0x0230, 0x0231}, {0x0240, 0x0241}, /* RIPEMD */
		{0x0250, 0x0251}, {0x0255, 0x0256}, {0x0260, 0x0261}, {0x0270, 0x0271}, /* SHA-2 */
		{0x0350, 0x0350}, /* generic secret keys */
		{0x0370, 0x0370}, {0x0374, 0x0374}, {0x0380, 0x0381}, /* SSL3, TLS */
		{0x0392, 0x0396}, /* derivation by hash */
		{0x1040, 0x1046}, /* EC key pairs, ECDSA with SHA-1 and SHA-2 */
		{0x1055, 0x1055}, /* Edwards key pairs */
		{0x1080, 0x1081}, {0x1083, 0x1083}, {0x108A, 0x108A}, /* AES */
		{0x2000, 0x2002}, /* DSA, DH, X9.42 domain parameters */
	};
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
		if (type >= none[i].first && type <= none[i].last)
			return true;
	return false;
}

/* load copies a parameter of a known size: a caller's need not be aligned. */
static bool load(const CK_MECHANISM *m, void *to, size_t size)
{
	if (m->ulParameterLen != size)
		return false;
	memcpy(to, m->pParameter, size);
	return true;
}

static CK_RV put_array(struct buffer *b, const void *p, CK_ULONG n)
{
	if (n > WIRE_MAX_BODY || (n > 0 && p == NULL))
		return CKR_MECHANISM_PARAM_INVALID;
	put_bytes(b, n > 0 ? p : NULL, n);
	return CKR_OK;
}

static CK_RV put_parameter(struct buffer *b, const CK_MECHANISM *m)
{
	switch (parameter_of(m->mechanism)) {
	case PARAMETER_PSS: {
		CK_RSA_PKCS_PSS_PARAMS p;
		if (!load(m, &p, sizeof p))
			break;
		put_ulong(b, p.hashAlg);
		put_ulong(b, p.mgf);
		put_ulong(b, p.sLen);
		return CKR_OK;
	}
	case PARAMETER_OAEP: {
		CK_RSA_PKCS_OAEP_PARAMS p;
		if (!load(m, &p, sizeof p))
			break;
		put_ulong(b, p.hashAlg);
		put_ulong(b, p.mgf);
		put_ulong(b, p.source);
		return put_array(b, p.pSourceData, p.ulSourceDataLen);
	}
	case PARAMETER_ECDH1: {
		CK_ECDH1_DERIVE_PARAMS p;
		if (!load(m, &p, sizeof p))
			break;
		put_ulong(b, p.kdf);
		CK_RV rv = put_array(b, p.pSharedData, p.ulSharedDataLen);
		return rv != CKR_OK ? rv : put_array(b, p.pPublicData, p.ulPublicDataLen);
	}
	case PARAMETER_IV:
		return put_array(b, m->pParameter, m->ulParameterLen);
	case PARAMETER_UNKNOWN:
		/* It may hold pointers, which mean nothing to the peer and
		 * tell it where our memory is. */
		break;
	}
	return CKR_MECHANISM_PARAM_INVALID;
}

static CK_RV put_old(struct buffer *b, const CK_MECHANISM *m, uint8_t version)
{
	enum parameter kind = parameter_of(m->mechanism);
	if (m->ulParameterLen == 0) {
		if (kind != PARAMETER_UNKNOWN)
			return CKR_MECHANISM_PARAM_INVALID;
		put_bytes(b, NULL, 0);
		return CKR_OK;
	}
	bool by_field = m->mechanism == CKM_RSA_PKCS_PSS || m->mechanism == CKM_RSA_PKCS_OAEP;
	if (version == 0 && !by_field) {
		/* Such a peer hands the bytes to its module as they are. That
		 * works on one machine and for what holds no pointer. */
		if (kind != PARAMETER_PSS && kind != PARAMETER_IV)
			return CKR_MECHANISM_PARAM_INVALID;
		return put_array(b, m->pParameter, m->ulParameterLen);
	}
	return put_parameter(b, m);
}

CK_RV put_mechanism(struct buffer *b, const CK_MECHANISM *m, uint8_t version)
{
	/* All ones means no mechanism at all on the wire of version 2. */
	if (m->mechanism >= UINT32_MAX)
		return CKR_MECHANISM_INVALID;
	if (m->ulParameterLen > 0 && m->pParameter == NULL)
		return CKR_MECHANISM_PARAM_INVALID;
	put_u32(b, (uint32_t)m->mechanism);
	if (version < 2)
		return put_old(b, m, version);
	if (takes_none(m->mechanism))
		return m->ulParameterLen == 0 ? CKR_OK : CKR_MECHANISM_PARAM_INVALID;
	put_byte(b, m->ulParameterLen > 0);
	return m->ulParameterLen > 0 ? put_parameter(b, m) : CKR_OK;
}
