/*
 * bench.c: how long things take, in microseconds, through any module.
 *
 *   bench MODULE [SIGNATURES [PIN]]
 *
 * It prints the best and the median of 20 loads with C_Initialize, and the
 * median of SIGNATURES times C_SignInit and C_Sign with the first private key.
 */
#define _GNU_SOURCE
#include <time.h>

#include "test.h"

static double microseconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	CHECK(argc >= 2);
	size_t signatures = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	double loads[20], *took = calloc(signatures + 1, sizeof *took);
	void *handle;
	CK_FUNCTION_LIST *p11;

	for (int i = 0; i < 20; i++) {
		double start = microseconds();
		p11 = load(argv[1], &handle);
		WANT(p11->C_Initialize(NULL), CKR_OK);
		loads[i] = microseconds() - start;
		WANT(p11->C_Finalize(NULL), CKR_OK);
		dlclose(handle);
	}
	qsort(loads, 20, sizeof loads[0], by_size);
	printf("load_best %.0f\nload_median %.0f\n", loads[0], loads[10]);
	if (signatures == 0)
		return 0;

	p11 = load(argv[1], &handle);
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CK_SLOT_ID slots[16];
	CK_SESSION_HANDLE h;
	CK_OBJECT_HANDLE key;
	CK_ULONG n = 16, found = 0, class = CKO_PRIVATE_KEY, type = 0x3; /* EC */
	CK_ATTRIBUTE want[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}};
	WANT(p11->C_GetSlotList(1, slots, &n), CKR_OK);
	for (CK_ULONG i = 0; i < n && found == 0; i++) {
		WANT(p11->C_OpenSession(slots[i], CKF_SERIAL_SESSION, NULL, NULL, &h), CKR_OK);
		if (argc > 3)
			WANT(p11->C_Login(h, CKU_USER, (CK_BYTE *)argv[3], strlen(argv[3])), CKR_OK);
		WANT(p11->C_FindObjectsInit(h, want, 2), CKR_OK);
		WANT(p11->C_FindObjects(h, &key, 1, &found), CKR_OK);
		WANT(p11->C_FindObjectsFinal(h), CKR_OK);
	}
	CHECK(found == 1);
	for (size_t i = 0; i < signatures; i++) {
		CK_MECHANISM m = {.mechanism = CKM_ECDSA};
		CK_BYTE digest[32] = {(CK_BYTE)i}, out[144];
		CK_ULONG len = sizeof out;
		double start = microseconds();
		WANT(p11->C_SignInit(h, &m, key), CKR_OK);
		WANT(p11->C_Sign(h, digest, sizeof digest, out, &len), CKR_OK);
		took[i] = microseconds() - start;
	}
	qsort(took, signatures, sizeof took[0], by_size);
	printf("sign_median %.0f\nsign_p99 %.0f\n", took[signatures / 2], took[signatures * 99 / 100]);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	free(took);
	return 0;
}
