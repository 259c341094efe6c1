/*
 * cryptoki.h: the part of PKCS#11 that the module speaks.
 *
 * Types, names and numbers are those of PKCS#11 v2.40 and, for interfaces, of
 * v3.0 §5.4; the words are ours. Structures have the platform's natural layout,
 * as everywhere but on Windows.
 */
#ifndef KEYRINGD_CRYPTOKI_H
#define KEYRINGD_CRYPTOKI_H

typedef unsigned char CK_BYTE, CK_CHAR, CK_UTF8CHAR, CK_BBOOL;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_FLAGS, CK_RV, CK_SLOT_ID, CK_SESSION_HANDLE, CK_OBJECT_HANDLE;
typedef CK_ULONG CK_USER_TYPE, CK_STATE, CK_NOTIFICATION;
typedef CK_ULONG CK_ATTRIBUTE_TYPE, CK_MECHANISM_TYPE;

#define CK_UNAVAILABLE_INFORMATION (~0UL)
#define CK_INVALID_HANDLE 0UL

/* v2.40 §3.1: what describes a library, a slot, a token and a session. */
typedef struct CK_VERSION {
	CK_BYTE major, minor;
} CK_VERSION;

typedef struct CK_INFO {
	CK_VERSION cryptokiVersion;
	CK_UTF8CHAR manufacturerID[32];
	CK_FLAGS flags;
	CK_UTF8CHAR libraryDescription[32];
	CK_VERSION libraryVersion;
} CK_INFO;

typedef struct CK_SLOT_INFO {
	CK_UTF8CHAR slotDescription[64];
	CK_UTF8CHAR manufacturerID[32];
	CK_FLAGS flags;
	CK_VERSION hardwareVersion, firmwareVersion;
} CK_SLOT_INFO;

typedef struct CK_TOKEN_INFO {
	CK_UTF8CHAR label[32];
	CK_UTF8CHAR manufacturerID[32];
	CK_UTF8CHAR model[16];
	CK_CHAR serialNumber[16];
	CK_FLAGS flags;
	CK_ULONG ulMaxSessionCount, ulSessionCount;
	CK_ULONG ulMaxRwSessionCount, ulRwSessionCount;
	CK_ULONG ulMaxPinLen, ulMinPinLen;
	CK_ULONG ulTotalPublicMemory, ulFreePublicMemory;
	CK_ULONG ulTotalPrivateMemory, ulFreePrivateMemory;
	CK_VERSION hardwareVersion, firmwareVersion;
	CK_CHAR utcTime[16];
} CK_TOKEN_INFO;

typedef struct CK_SESSION_INFO {
	CK_SLOT_ID slotID;
	CK_STATE state;
	CK_FLAGS flags;
	CK_ULONG ulDeviceError;
} CK_SESSION_INFO;

typedef struct CK_MECHANISM_INFO {
	CK_ULONG ulMinKeySize, ulMaxKeySize;
	CK_FLAGS flags;
} CK_MECHANISM_INFO;

typedef struct CK_ATTRIBUTE {
	CK_ATTRIBUTE_TYPE type;
	void *pValue;
	CK_ULONG ulValueLen;
} CK_ATTRIBUTE;

typedef struct CK_DATE {
	CK_CHAR year[4], month[2], day[2];
} CK_DATE;

typedef struct CK_MECHANISM {
	CK_MECHANISM_TYPE mechanism;
	void *pParameter;
	CK_ULONG ulParameterLen;
} CK_MECHANISM;

typedef struct CK_RSA_PKCS_PSS_PARAMS {
	CK_MECHANISM_TYPE hashAlg;
	CK_ULONG mgf, sLen;
} CK_RSA_PKCS_PSS_PARAMS;

typedef struct CK_RSA_PKCS_OAEP_PARAMS {
	CK_MECHANISM_TYPE hashAlg;
	CK_ULONG mgf, source;
	void *pSourceData;
	CK_ULONG ulSourceDataLen;
} CK_RSA_PKCS_OAEP_PARAMS;

typedef struct CK_ECDH1_DERIVE_PARAMS {
	CK_ULONG kdf;
	CK_ULONG ulSharedDataLen;
	CK_BYTE *pSharedData;
	CK_ULONG ulPublicDataLen;
	CK_BYTE *pPublicData;
} CK_ECDH1_DERIVE_PARAMS;

typedef CK_RV (*CK_NOTIFY)(CK_SESSION_HANDLE, CK_NOTIFICATION, void *);

typedef struct CK_C_INITIALIZE_ARGS {
	CK_RV (*CreateMutex)(void **);
	CK_RV (*DestroyMutex)(void *);
	CK_RV (*LockMutex)(void *);
	CK_RV (*UnlockMutex)(void *);
	CK_FLAGS flags;
	void *pReserved;
} CK_C_INITIALIZE_ARGS;

typedef struct CK_FUNCTION_LIST CK_FUNCTION_LIST;

/*
 * The functions of v2.40 in the order of its function list, which is the
 * binary interface: never sort it. Each row is F(name, (parameters)).
 */
#define CRYPTOKI_FUNCTIONS(F) \
	F(C_Initialize, (void *)) \
	F(C_Finalize, (void *)) \
	F(C_GetInfo, (CK_INFO *)) \
	F(C_GetFunctionList, (CK_FUNCTION_LIST **)) \
	F(C_GetSlotList, (CK_BBOOL, CK_SLOT_ID *, CK_ULONG *)) \
	F(C_GetSlotInfo, (CK_SLOT_ID, CK_SLOT_INFO *)) \
	F(C_GetTokenInfo, (CK_SLOT_ID, CK_TOKEN_INFO *)) \
	F(C_GetMechanismList, (CK_SLOT_ID, CK_MECHANISM_TYPE *, CK_ULONG *)) \
	F(C_GetMechanismInfo, (CK_SLOT_ID, CK_MECHANISM_TYPE, CK_MECHANISM_INFO *)) \
	F(C_InitToken, (CK_SLOT_ID, CK_UTF8CHAR *, CK_ULONG, CK_UTF8CHAR *)) \
	F(C_InitPIN, (CK_SESSION_HANDLE, CK_UTF8CHAR *, CK_ULONG)) \
	F(C_SetPIN, (CK_SESSION_HANDLE, CK_UTF8CHAR *, CK_ULONG, CK_UTF8CHAR *, CK_ULONG)) \
	F(C_OpenSession, (CK_SLOT_ID, CK_FLAGS, void *, CK_NOTIFY, CK_SESSION_HANDLE *)) \
	F(C_CloseSession, (CK_SESSION_HANDLE)) \
	F(C_CloseAllSessions, (CK_SLOT_ID)) \
	F(C_GetSessionInfo, (CK_SESSION_HANDLE, CK_SESSION_INFO *)) \
	F(C_GetOperationState, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG *)) \
	F(C_SetOperationState, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)) \
	F(C_Login, (CK_SESSION_HANDLE, CK_USER_TYPE, CK_UTF8CHAR *, CK_ULONG)) \
	F(C_Logout, (CK_SESSION_HANDLE)) \
	F(C_CreateObject, (CK_SESSION_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	F(C_CopyObject, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	F(C_DestroyObject, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE)) \
	F(C_GetObjectSize, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ULONG *)) \
	F(C_GetAttributeValue, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG)) \
	F(C_SetAttributeValue, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG)) \
	F(C_FindObjectsInit, (CK_SESSION_HANDLE, CK_ATTRIBUTE *, CK_ULONG)) \
	F(C_FindObjects, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE *, CK_ULONG, CK_ULONG *)) \
	F(C_FindObjectsFinal, (CK_SESSION_HANDLE)) \
	F(C_EncryptInit, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)) \
	F(C_Encrypt, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_EncryptUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_EncryptFinal, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG *)) \
	F(C_DecryptInit, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)) \
	F(C_Decrypt, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_DecryptUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_DecryptFinal, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG *)) \
	F(C_DigestInit, (CK_SESSION_HANDLE, CK_MECHANISM *)) \
	F(C_Digest, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_DigestUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)) \
	F(C_DigestKey, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE)) \
	F(C_DigestFinal, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG *)) \
	F(C_SignInit, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)) \
	F(C_Sign, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_SignUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)) \
	F(C_SignFinal, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG *)) \
	F(C_SignRecoverInit, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)) \
	F(C_SignRecover, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_VerifyInit, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)) \
	F(C_Verify, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG)) \
	F(C_VerifyUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)) \
	F(C_VerifyFinal, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)) \
	F(C_VerifyRecoverInit, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)) \
	F(C_VerifyRecover, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_DigestEncryptUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_DecryptDigestUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_SignEncryptUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_DecryptVerifyUpdate, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)) \
	F(C_GenerateKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	F(C_GenerateKeyPair, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_ATTRIBUTE *, CK_ULONG, \
		CK_OBJECT_HANDLE *, CK_OBJECT_HANDLE *)) \
	F(C_WrapKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG *)) \
	F(C_UnwrapKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG, CK_ATTRIBUTE *, CK_ULONG, \
		CK_OBJECT_HANDLE *)) \
	F(C_DeriveKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	F(C_SeedRandom, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)) \
	F(C_GenerateRandom, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)) \
	F(C_GetFunctionStatus, (CK_SESSION_HANDLE)) \
	F(C_CancelFunction, (CK_SESSION_HANDLE)) \
	F(C_WaitForSlotEvent, (CK_FLAGS, CK_SLOT_ID *, void *))

struct CK_FUNCTION_LIST {
	CK_VERSION version;
#define CRYPTOKI_POINTER(name, parameters) CK_RV (*name) parameters;
	CRYPTOKI_FUNCTIONS(CRYPTOKI_POINTER)
#undef CRYPTOKI_POINTER
};

/* v3.0 §5.4.4: an interface is a name and the function list behind it. */
typedef struct CK_INTERFACE {
	CK_UTF8CHAR *pInterfaceName;
	void *pFunctionList;
	CK_FLAGS flags;
} CK_INTERFACE;

/* Flags of C_Initialize, C_OpenSession, C_WaitForSlotEvent and slots. */
#define CKF_LIBRARY_CANT_CREATE_OS_THREADS 0x1UL
#define CKF_OS_LOCKING_OK 0x2UL
#define CKF_RW_SESSION 0x2UL
#define CKF_SERIAL_SESSION 0x4UL
#define CKF_DONT_BLOCK 0x1UL
#define CKF_TOKEN_PRESENT 0x1UL

#define CKU_USER 1UL

/* Return values that the module makes itself, or looks for. */
#define CKR_OK 0x0UL
#define CKR_HOST_MEMORY 0x2UL
#define CKR_SLOT_ID_INVALID 0x3UL
#define CKR_ARGUMENTS_BAD 0x7UL
#define CKR_NO_EVENT 0x8UL
#define CKR_CANT_LOCK 0xAUL
#define CKR_ATTRIBUTE_SENSITIVE 0x11UL
#define CKR_ATTRIBUTE_TYPE_INVALID 0x12UL
#define CKR_ATTRIBUTE_VALUE_INVALID 0x13UL
#define CKR_DATA_LEN_RANGE 0x21UL
#define CKR_DEVICE_ERROR 0x30UL
#define CKR_DEVICE_REMOVED 0x32UL
#define CKR_FUNCTION_FAILED 0x6UL
#define CKR_FUNCTION_NOT_PARALLEL 0x51UL
#define CKR_FUNCTION_NOT_SUPPORTED 0x54UL
#define CKR_KEY_HANDLE_INVALID 0x60UL
#define CKR_MECHANISM_INVALID 0x70UL
#define CKR_MECHANISM_PARAM_INVALID 0x71UL
#define CKR_OBJECT_HANDLE_INVALID 0x82UL
#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define CKR_SIGNATURE_INVALID 0xC0UL
#define CKR_BUFFER_TOO_SMALL 0x150UL
#define CKR_CRYPTOKI_NOT_INITIALIZED 0x190UL
#define CKR_CRYPTOKI_ALREADY_INITIALIZED 0x191UL

/* Classes, key types and attributes. */
#define CKO_CERTIFICATE 0x1UL
#define CKO_PUBLIC_KEY 0x2UL
#define CKO_PRIVATE_KEY 0x3UL
#define CKO_SECRET_KEY 0x4UL

#define CKA_CLASS 0x0UL
#define CKA_TOKEN 0x1UL
#define CKA_PRIVATE 0x2UL
#define CKA_LABEL 0x3UL
#define CKA_VALUE 0x11UL
#define CKA_CERTIFICATE_TYPE 0x80UL
#define CKA_TRUSTED 0x86UL
#define CKA_CERTIFICATE_CATEGORY 0x87UL
#define CKA_JAVA_MIDP_SECURITY_DOMAIN 0x88UL
#define CKA_KEY_TYPE 0x100UL
#define CKA_ID 0x102UL
#define CKA_SENSITIVE 0x103UL
#define CKA_ENCRYPT 0x104UL
#define CKA_DECRYPT 0x105UL
#define CKA_WRAP 0x106UL
#define CKA_UNWRAP 0x107UL
#define CKA_SIGN 0x108UL
#define CKA_SIGN_RECOVER 0x109UL
#define CKA_VERIFY 0x10AUL
#define CKA_VERIFY_RECOVER 0x10BUL
#define CKA_DERIVE 0x10CUL
#define CKA_START_DATE 0x110UL
#define CKA_END_DATE 0x111UL
#define CKA_MODULUS 0x120UL
#define CKA_MODULUS_BITS 0x121UL
#define CKA_PUBLIC_EXPONENT 0x122UL
#define CKA_PRIME_BITS 0x133UL
#define CKA_SUBPRIME_BITS 0x134UL
#define CKA_VALUE_BITS 0x160UL
#define CKA_VALUE_LEN 0x161UL
#define CKA_EXTRACTABLE 0x162UL
#define CKA_LOCAL 0x163UL
#define CKA_NEVER_EXTRACTABLE 0x164UL
#define CKA_ALWAYS_SENSITIVE 0x165UL
#define CKA_KEY_GEN_MECHANISM 0x166UL
#define CKA_MODIFIABLE 0x170UL
#define CKA_COPYABLE 0x171UL
#define CKA_DESTROYABLE 0x172UL
#define CKA_EC_PARAMS 0x180UL
#define CKA_EC_POINT 0x181UL
#define CKA_SECONDARY_AUTH 0x200UL
#define CKA_AUTH_PIN_FLAGS 0x201UL
#define CKA_ALWAYS_AUTHENTICATE 0x202UL
#define CKA_WRAP_WITH_TRUSTED 0x210UL
#define CKA_HW_FEATURE_TYPE 0x300UL
#define CKA_RESET_ON_INIT 0x301UL
#define CKA_HAS_RESET 0x302UL
#define CKA_PIXEL_X 0x400UL
#define CKA_PIXEL_Y 0x401UL
#define CKA_RESOLUTION 0x402UL
#define CKA_CHAR_ROWS 0x403UL
#define CKA_CHAR_COLUMNS 0x404UL
#define CKA_COLOR 0x405UL
#define CKA_BITS_PER_PIXEL 0x406UL
#define CKA_MECHANISM_TYPE 0x500UL
#define CKF_ARRAY_ATTRIBUTE 0x40000000UL
#define CKA_WRAP_TEMPLATE (CKF_ARRAY_ATTRIBUTE | 0x211UL)
#define CKA_UNWRAP_TEMPLATE (CKF_ARRAY_ATTRIBUTE | 0x212UL)
#define CKA_DERIVE_TEMPLATE (CKF_ARRAY_ATTRIBUTE | 0x213UL)
#define CKA_ALLOWED_MECHANISMS (CKF_ARRAY_ATTRIBUTE | 0x600UL)

/* Mechanisms whose parameters the module knows how to carry, and a few that
 * its tests use. */
#define CKM_RSA_PKCS_KEY_PAIR_GEN 0x0UL
#define CKM_RSA_PKCS 0x1UL
#define CKM_RSA_PKCS_OAEP 0x9UL
#define CKM_RSA_PKCS_PSS 0xDUL
#define CKM_SHA1_RSA_PKCS_PSS 0xEUL
#define CKM_SHA256_RSA_PKCS 0x40UL
#define CKM_SHA256_RSA_PKCS_PSS 0x43UL
#define CKM_SHA384_RSA_PKCS_PSS 0x44UL
#define CKM_SHA512_RSA_PKCS_PSS 0x45UL
#define CKM_SHA224_RSA_PKCS_PSS 0x47UL
#define CKM_DES_CBC 0x122UL
#define CKM_DES_CBC_PAD 0x125UL
#define CKM_DES3_CBC 0x133UL
#define CKM_DES3_CBC_PAD 0x136UL
#define CKM_SHA_1 0x220UL
#define CKM_SHA256 0x250UL
#define CKM_EC_KEY_PAIR_GEN 0x1040UL
#define CKM_ECDSA 0x1041UL
#define CKM_ECDSA_SHA256 0x1044UL
#define CKM_ECDH1_DERIVE 0x1050UL
#define CKM_ECDH1_COFACTOR_DERIVE 0x1051UL
#define CKM_EDDSA 0x1057UL
#define CKM_AES_CBC 0x1082UL
#define CKM_AES_CBC_PAD 0x1085UL

#define CKG_MGF1_SHA1 0x1UL
#define CKG_MGF1_SHA256 0x2UL
#define CKD_NULL 0x1UL
#define CKZ_DATA_SPECIFIED 0x1UL

#endif
