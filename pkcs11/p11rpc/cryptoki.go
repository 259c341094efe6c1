package p11rpc

import "fmt"

// Unavailable is CK_UNAVAILABLE_INFORMATION: a number that is not known.
const Unavailable = ^uint64(0)

// An RV is what a call returns, PKCS#11 v2.40 §5.1. As an error it says why a
// call was refused.
type RV uint64

// The CKR_ values that are used.
const (
	OK                      RV = 0x000
	HostMemory              RV = 0x002
	SlotIDInvalid           RV = 0x003
	GeneralError            RV = 0x005
	FunctionFailed          RV = 0x006
	ArgumentsBad            RV = 0x007
	NoEvent                 RV = 0x008
	AttributeReadOnly       RV = 0x010
	AttributeSensitive      RV = 0x011
	AttributeTypeInvalid    RV = 0x012
	AttributeValueInvalid   RV = 0x013
	ActionProhibited        RV = 0x01b
	DataInvalid             RV = 0x020
	DataLenRange            RV = 0x021
	DeviceError             RV = 0x030
	DeviceMemory            RV = 0x031
	DeviceRemoved           RV = 0x032
	EncryptedDataInvalid    RV = 0x040
	EncryptedDataLenRange   RV = 0x041
	FunctionCanceled        RV = 0x050
	FunctionNotSupported    RV = 0x054
	KeyHandleInvalid        RV = 0x060
	KeySizeRange            RV = 0x062
	KeyTypeInconsistent     RV = 0x063
	KeyIndigestible         RV = 0x067
	KeyFunctionNotPermitted RV = 0x068
	MechanismInvalid        RV = 0x070
	MechanismParamInvalid   RV = 0x071
	ObjectHandleInvalid     RV = 0x082
	OperationActive         RV = 0x090
	OperationNotInitialized RV = 0x091
	PINIncorrect            RV = 0x0a0
	PINLocked               RV = 0x0a4
	SessionClosed           RV = 0x0b0
	SessionCount            RV = 0x0b1
	SessionHandleInvalid    RV = 0x0b3
	SessionParallelNotSupp  RV = 0x0b4
	SessionReadOnly         RV = 0x0b5
	SignatureInvalid        RV = 0x0c0
	SignatureLenRange       RV = 0x0c1
	TemplateIncomplete      RV = 0x0d0
	TemplateInconsistent    RV = 0x0d1
	TokenNotPresent         RV = 0x0e0
	TokenWriteProtected     RV = 0x0e2
	UserAlreadyLoggedIn     RV = 0x100
	UserNotLoggedIn         RV = 0x101
	UserTypeInvalid         RV = 0x103
	WrappedKeyLenRange      RV = 0x112
	RandomSeedNotSupported  RV = 0x120
	CurveNotSupported       RV = 0x140
	BufferTooSmall          RV = 0x150
	StateUnsaveable         RV = 0x180
	CryptokiNotInitialized  RV = 0x190
	CryptokiAlreadyInit     RV = 0x191
	FunctionRejected        RV = 0x200
)

// Error says it in words, for a log.
func (r RV) Error() string {
	if name, ok := rvNames[r]; ok {
		return name
	}
	return fmt.Sprintf("return value %#x", uint64(r))
}

var rvNames = map[RV]string{
	OK:                      "no error",
	HostMemory:              "out of memory",
	SlotIDInvalid:           "no such slot",
	GeneralError:            "general error",
	FunctionFailed:          "function failed",
	ArgumentsBad:            "bad arguments",
	NoEvent:                 "no slot event",
	AttributeReadOnly:       "attribute is read-only",
	AttributeSensitive:      "attribute is sensitive",
	AttributeTypeInvalid:    "no such attribute",
	AttributeValueInvalid:   "an attribute's value does not fit",
	ActionProhibited:        "not allowed for this object",
	DataInvalid:             "data does not fit the mechanism",
	DataLenRange:            "data of the wrong length",
	DeviceError:             "device error",
	DeviceMemory:            "too much at once",
	DeviceRemoved:           "device removed",
	EncryptedDataInvalid:    "not for this key and mechanism",
	EncryptedDataLenRange:   "encrypted data of the wrong length",
	FunctionCanceled:        "cancelled",
	FunctionNotSupported:    "function not supported",
	KeyHandleInvalid:        "no such key",
	KeySizeRange:            "keys of that size are not made",
	KeyTypeInconsistent:     "key and mechanism do not go together",
	KeyIndigestible:         "a key's value cannot be digested",
	KeyFunctionNotPermitted: "the key may not be used for this",
	MechanismInvalid:        "mechanism not supported",
	MechanismParamInvalid:   "mechanism's parameters not supported",
	ObjectHandleInvalid:     "no such object",
	OperationActive:         "another operation is active",
	OperationNotInitialized: "no operation was begun",
	PINIncorrect:            "wrong PIN",
	PINLocked:               "the PIN is locked",
	SessionClosed:           "session closed",
	SessionCount:            "too many sessions",
	SessionHandleInvalid:    "no such session",
	SessionParallelNotSupp:  "sessions are serial",
	SessionReadOnly:         "the session is read-only",
	SignatureInvalid:        "signature is wrong",
	SignatureLenRange:       "signature of the wrong length",
	TemplateIncomplete:      "an attribute is missing",
	TemplateInconsistent:    "attributes do not go together, or cannot be had",
	TokenNotPresent:         "no token in the slot",
	TokenWriteProtected:     "the token is read-only",
	UserAlreadyLoggedIn:     "already logged in",
	UserNotLoggedIn:         "not logged in",
	UserTypeInvalid:         "no such user",
	WrappedKeyLenRange:      "wrapped key of the wrong length",
	RandomSeedNotSupported:  "takes no seed",
	CurveNotSupported:       "curve not supported",
	BufferTooSmall:          "buffer too small",
	StateUnsaveable:         "the operation's state cannot be saved",
	CryptokiNotInitialized:  "not initialized",
	CryptokiAlreadyInit:     "already initialized",
	FunctionRejected:        "refused by the user",
}

// A Class is a CKO_ value: what kind of object it is.
type Class uint64

// The classes of objects that are used.
const (
	ClassCertificate Class = 1
	ClassPublicKey   Class = 2
	ClassPrivateKey  Class = 3
	ClassSecretKey   Class = 4
)

// The CKK_ values that are used, for [AttrKeyType].
const (
	KeyTypeRSA           uint64 = 0x00
	KeyTypeEC            uint64 = 0x03
	KeyTypeGenericSecret uint64 = 0x10
	KeyTypeAES           uint64 = 0x1f
	KeyTypeECEdwards     uint64 = 0x40
)

// An AttributeType is a CKA_ value.
type AttributeType uint32

// The CKA_ values that are used, or whose values have a form of their own.
const (
	AttrClass               AttributeType = 0x000
	AttrToken               AttributeType = 0x001
	AttrPrivate             AttributeType = 0x002
	AttrLabel               AttributeType = 0x003
	AttrValue               AttributeType = 0x011
	AttrCertificateType     AttributeType = 0x080
	AttrIssuer              AttributeType = 0x081
	AttrSerialNumber        AttributeType = 0x082
	AttrTrusted             AttributeType = 0x086
	AttrCertificateCategory AttributeType = 0x087
	AttrJavaMIDPDomain      AttributeType = 0x088
	AttrURL                 AttributeType = 0x089
	AttrCheckValue          AttributeType = 0x090
	AttrKeyType             AttributeType = 0x100
	AttrSubject             AttributeType = 0x101
	AttrID                  AttributeType = 0x102
	AttrSensitive           AttributeType = 0x103
	AttrEncrypt             AttributeType = 0x104
	AttrDecrypt             AttributeType = 0x105
	AttrWrap                AttributeType = 0x106
	AttrUnwrap              AttributeType = 0x107
	AttrSign                AttributeType = 0x108
	AttrSignRecover         AttributeType = 0x109
	AttrVerify              AttributeType = 0x10a
	AttrVerifyRecover       AttributeType = 0x10b
	AttrDerive              AttributeType = 0x10c
	AttrStartDate           AttributeType = 0x110
	AttrEndDate             AttributeType = 0x111
	AttrModulus             AttributeType = 0x120
	AttrModulusBits         AttributeType = 0x121
	AttrPublicExponent      AttributeType = 0x122
	AttrPrivateExponent     AttributeType = 0x123
	AttrPrime1              AttributeType = 0x124
	AttrPrime2              AttributeType = 0x125
	AttrExponent1           AttributeType = 0x126
	AttrExponent2           AttributeType = 0x127
	AttrCoefficient         AttributeType = 0x128
	AttrPublicKeyInfo       AttributeType = 0x129
	AttrPrimeBits           AttributeType = 0x133
	AttrSubPrimeBits        AttributeType = 0x134
	AttrValueBits           AttributeType = 0x160
	AttrValueLen            AttributeType = 0x161
	AttrExtractable         AttributeType = 0x162
	AttrLocal               AttributeType = 0x163
	AttrNeverExtractable    AttributeType = 0x164
	AttrAlwaysSensitive     AttributeType = 0x165
	AttrKeyGenMechanism     AttributeType = 0x166
	AttrModifiable          AttributeType = 0x170
	AttrCopyable            AttributeType = 0x171
	AttrDestroyable         AttributeType = 0x172
	AttrECParams            AttributeType = 0x180
	AttrECPoint             AttributeType = 0x181
	AttrSecondaryAuth       AttributeType = 0x200
	AttrAuthPINFlags        AttributeType = 0x201
	AttrAlwaysAuthenticate  AttributeType = 0x202
	AttrWrapWithTrusted     AttributeType = 0x210
	AttrHWFeatureType       AttributeType = 0x300
	AttrResetOnInit         AttributeType = 0x301
	AttrHasReset            AttributeType = 0x302
	AttrPixelX              AttributeType = 0x400
	AttrPixelY              AttributeType = 0x401
	AttrResolution          AttributeType = 0x402
	AttrCharRows            AttributeType = 0x403
	AttrCharColumns         AttributeType = 0x404
	AttrColor               AttributeType = 0x405
	AttrBitsPerPixel        AttributeType = 0x406
	AttrMechanismType       AttributeType = 0x500
	AttrWrapTemplate        AttributeType = 0x40000211
	AttrUnwrapTemplate      AttributeType = 0x40000212
	AttrDeriveTemplate      AttributeType = 0x40000213
	AttrAllowedMechanisms   AttributeType = 0x40000600
)

// A MechanismType is a CKM_ value.
type MechanismType uint32

// The CKM_ values whose parameters are known here.
const (
	MechRSAPKCSKeyPairGen   MechanismType = 0x0000
	MechRSAPKCS             MechanismType = 0x0001
	MechRSAX509             MechanismType = 0x0003
	MechSHA1RSAPKCS         MechanismType = 0x0006
	MechRSAPKCSOAEP         MechanismType = 0x0009
	MechRSAPKCSPSS          MechanismType = 0x000d
	MechSHA1RSAPKCSPSS      MechanismType = 0x000e
	MechSHA256RSAPKCS       MechanismType = 0x0040
	MechSHA384RSAPKCS       MechanismType = 0x0041
	MechSHA512RSAPKCS       MechanismType = 0x0042
	MechSHA256RSAPKCSPSS    MechanismType = 0x0043
	MechSHA384RSAPKCSPSS    MechanismType = 0x0044
	MechSHA512RSAPKCSPSS    MechanismType = 0x0045
	MechSHA224RSAPKCS       MechanismType = 0x0046
	MechSHA224RSAPKCSPSS    MechanismType = 0x0047
	MechSHA1                MechanismType = 0x0220
	MechSHA256              MechanismType = 0x0250
	MechSHA224              MechanismType = 0x0255
	MechSHA384              MechanismType = 0x0260
	MechSHA512              MechanismType = 0x0270
	MechECKeyPairGen        MechanismType = 0x1040
	MechECDSA               MechanismType = 0x1041
	MechECDSASHA1           MechanismType = 0x1042
	MechECDSASHA224         MechanismType = 0x1043
	MechECDSASHA256         MechanismType = 0x1044
	MechECDSASHA384         MechanismType = 0x1045
	MechECDSASHA512         MechanismType = 0x1046
	MechECDH1Derive         MechanismType = 0x1050
	MechECDH1CofactorDerive MechanismType = 0x1051
	MechECEdwardsKeyPairGen MechanismType = 0x1055
	MechEDDSA               MechanismType = 0x1057

	// MechNone stands for a NULL mechanism, which ends an operation.
	MechNone MechanismType = 0xffffffff
)

// The CKD_ and CKZ_ values that are used, for [ECDHParams] and [OAEPParams].
const (
	KDFNull       uint64 = 1 // the shared secret is the key
	DataSpecified uint64 = 1 // the label is given
)

// The CKG_ values that are used, for [PSSParams] and [OAEPParams].
const (
	MGF1SHA1   uint64 = 1
	MGF1SHA256 uint64 = 2
	MGF1SHA384 uint64 = 3
	MGF1SHA512 uint64 = 4
	MGF1SHA224 uint64 = 5
)
