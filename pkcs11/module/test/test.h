/* test.h: what the module's C tests share. A test that fails says where, and
 * ends the program. */
#ifndef KEYRINGD_TEST_H
#define KEYRINGD_TEST_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cryptoki.h"

#define CHECK(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #what); \
			abort(); \
		} \
	} while (0)

#define WANT(call, code) \
	do { \
		CK_RV rv_ = (call); \
		if (rv_ != (code)) { \
			fprintf(stderr, "%s:%d: %s: %s = 0x%lx, not %s\n", __FILE__, __LINE__, __func__, #call, rv_, #code); \
			abort(); \
		} \
	} while (0)

/* load opens the module; the handle is for dlclose. */
static inline CK_FUNCTION_LIST *load(const char *path, void **handle)
{
	CK_RV (*get)(CK_FUNCTION_LIST **);
	CK_FUNCTION_LIST *list = NULL;
	*handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (*handle == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		abort();
	}
	*(void **)&get = dlsym(*handle, "C_GetFunctionList");
	CHECK(get != NULL);
	WANT(get(&list), CKR_OK);
	CHECK(list != NULL);
	return list;
}

/* A generator of numbers that are the same in every run. */
static inline unsigned next_random(unsigned long long *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (unsigned)(*state >> 32);
}

#endif
