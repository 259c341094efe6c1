#define _GNU_SOURCE
#include "calls.h"

#include <time.h>
#include <unistd.h>

CK_FUNCTION_LIST *p11;
char dir[] = "/tmp/krXXXXXX";
char path[64];

static void *handle;

void begin(int argc, char **argv)
{
	CHECK(argc == 2 && mkdtemp(dir) != NULL);
	snprintf(path, sizeof path, "%s/s", dir);
	setenv("KEYRINGD_PKCS11_SOCKET", path, 1);
	p11 = load(argv[1], &handle);
	alarm(300); /* a hang is a failure, too */
}

void end(void)
{
	dlclose(handle);
	CHECK(rmdir(dir) == 0);
}

double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

CK_ULONG slots(void)
{
	CK_SLOT_ID slot;
	CK_ULONG n = 1;
	WANT(p11->C_GetSlotList(1, &slot, &n), CKR_OK);
	if (n == 1)
		CHECK(slot == 7);
	return n;
}

CK_SESSION_HANDLE session(void)
{
	CK_SESSION_HANDLE h;
	WANT(p11->C_OpenSession(7, CKF_SERIAL_SESSION, NULL, NULL, &h), CKR_OK);
	return h;
}

CK_OBJECT_HANDLE object(CK_SESSION_HANDLE h)
{
	CK_OBJECT_HANDLE found;
	CK_ULONG n = 0;
	WANT(p11->C_FindObjectsInit(h, NULL, 0), CKR_OK);
	WANT(p11->C_FindObjects(h, &found, 1, &n), CKR_OK);
	WANT(p11->C_FindObjectsFinal(h), CKR_OK);
	CHECK(n == 1);
	return found;
}

CK_RV sign(CK_SESSION_HANDLE h, const char *text)
{
	CK_MECHANISM m = {.mechanism = CKM_ECDSA};
	CK_BYTE out[64];
	CK_ULONG n = sizeof out;
	CK_RV rv = p11->C_SignInit(h, &m, 0);
	if (rv == CKR_OK)
		rv = p11->C_Sign(h, (CK_BYTE *)text, strlen(text), out, &n);
	if (rv == CKR_OK)
		CHECK(n == strlen(text) && memcmp(out, text, n) == 0);
	return rv;
}
