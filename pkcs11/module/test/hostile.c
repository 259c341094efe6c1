/*
 * hostile.c: the module against peers that are absent, broken or malicious. No
 * call may crash or give a caller what is not there.
 *
 *   hostile MODULE
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "server.h"

static long resident_kib(void)
{
#ifdef __SANITIZE_ADDRESS__
	return 0; /* it keeps what was freed */
#endif
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	CHECK(f != NULL && fscanf(f, "%*d %ld", &pages) == 1);
	fclose(f);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void nobody_there(void)
{
	CK_INFO info;
	CK_TOKEN_INFO token;
	CK_SLOT_ID slot;
	CK_SESSION_HANDLE h;
	double start = seconds();

	WANT(p11->C_Initialize(NULL), CKR_OK);
	CHECK(slots() == 0);
	WANT(p11->C_GetInfo(&info), CKR_OK);
	CHECK(info.cryptokiVersion.major == 2 && info.cryptokiVersion.minor == 40);
	WANT(p11->C_GetInfo(NULL), CKR_ARGUMENTS_BAD);
	WANT(p11->C_GetSlotList(1, NULL, NULL), CKR_ARGUMENTS_BAD);
	WANT(p11->C_GetTokenInfo(7, &token), CKR_SLOT_ID_INVALID);
	WANT(p11->C_OpenSession(7, CKF_SERIAL_SESSION, NULL, NULL, &h), CKR_SLOT_ID_INVALID);
	WANT(sign(1, "x"), CKR_SESSION_HANDLE_INVALID);
	WANT(p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, &slot, NULL), CKR_NO_EVENT);
	WANT(p11->C_WaitForSlotEvent(0, &slot, NULL), CKR_FUNCTION_NOT_SUPPORTED);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	CHECK(seconds() - start < 1);
}

static void test_absent(void)
{
	unlink(path);
	nobody_there(); /* no such file */
	setenv("KEYRINGD_PKCS11_SOCKET", "relative/path", 1);
	nobody_there();
	char longer[300];
	memset(longer, 'x', sizeof longer);
	longer[0] = '/';
	longer[sizeof longer - 1] = '\0';
	setenv("KEYRINGD_PKCS11_SOCKET", longer, 1);
	nobody_there();
	setenv("KEYRINGD_PKCS11_SOCKET", path, 1);

	/* A file that nobody listens at, as a daemon that was killed leaves. */
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
	close(fd);
	nobody_there();
}

static void test_where(void)
{
	/* Without a name of its own the socket is in the runtime directory. */
	char runtime[80], sub[96];
	snprintf(runtime, sizeof runtime, "%s/run", dir);
	snprintf(sub, sizeof sub, "%s/keyringd", runtime);
	CHECK(mkdir(runtime, 0700) == 0 && mkdir(sub, 0700) == 0);
	snprintf(sub, sizeof sub, "%s/keyringd/pkcs11", runtime);
	struct server *s = server_start(sub, FAULT_NONE);
	unsetenv("KEYRINGD_PKCS11_SOCKET");
	setenv("XDG_RUNTIME_DIR", runtime, 1);
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CHECK(slots() == 1);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	setenv("KEYRINGD_PKCS11_SOCKET", path, 1);
	server_stop(s);
	snprintf(sub, sizeof sub, "%s/keyringd", runtime);
	CHECK(rmdir(sub) == 0 && rmdir(runtime) == 0);
}

static void test_useless_peers(void)
{
	static const enum fault faults[] = {FAULT_HANG_UP, FAULT_NEWER, FAULT_NO_HELLO, FAULT_BODY_1GIB, FAULT_BODY_MAX,
		FAULT_OPTIONS_1GIB, FAULT_NUMBER, FAULT_SHORT};
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		struct server *s = server_start(path, faults[i]);
		long before = resident_kib();
		WANT(p11->C_Initialize(NULL), CKR_OK);
		for (int n = 0; n < 20; n++)
			CHECK(slots() == 0);
		server_fault(s, FAULT_NONE); /* and it is back */
		CHECK(slots() == 1);
		/* The same in the middle of a session. */
		CK_SESSION_HANDLE h = session();
		CK_OBJECT_HANDLE key = object(h);
		server_fault(s, faults[i] == FAULT_HANG_UP || faults[i] == FAULT_NEWER || faults[i] == FAULT_NO_HELLO ? FAULT_SHORT : faults[i]);
		WANT(sign(h, "x"), CKR_DEVICE_REMOVED);
		WANT(sign(h, "x"), CKR_SESSION_HANDLE_INVALID);
		server_fault(s, FAULT_NONE);
		WANT(sign(h, "x"), CKR_SESSION_HANDLE_INVALID);
		WANT(p11->C_GetAttributeValue(h, key, NULL, 0), CKR_SESSION_HANDLE_INVALID);
		CK_SESSION_HANDLE again = session();
		/* The new peer's objects are other objects, too. */
		WANT(p11->C_GetAttributeValue(again, key, NULL, 0), CKR_OBJECT_HANDLE_INVALID);
		CHECK(object(again) != key);
		CHECK(again != h); /* though the peer gave the same number */
		WANT(sign(again, "x"), CKR_OK);
		WANT(sign(h, "x"), CKR_SESSION_HANDLE_INVALID);
		WANT(p11->C_Finalize(NULL), CKR_OK);
		server_stop(s);
		CHECK(resident_kib() - before < 8 << 10);
	}
}

static void test_odd_but_fine(void)
{
	static const enum fault faults[] = {FAULT_ONLY_0, FAULT_DRIBBLE};
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		struct server *s = server_start(path, faults[i]);
		CK_TOKEN_INFO t;
		WANT(p11->C_Initialize(NULL), CKR_OK);
		CHECK(slots() == 1);
		WANT(p11->C_GetTokenInfo(7, &t), CKR_OK);
		CHECK(memcmp(t.label, "a token  ", 9) == 0 && t.flags == 0 && t.ulMaxSessionCount == 1);
		CHECK(t.ulFreePrivateMemory == CK_UNAVAILABLE_INFORMATION && t.firmwareVersion.minor == 4);
		CHECK(memcmp(t.utcTime, "2026112311000000", 16) == 0);
		WANT(sign(session(), "x"), CKR_OK);
		WANT(p11->C_Finalize(NULL), CKR_OK);
		server_stop(s);
	}
}

static void test_lies(void)
{
	struct server *s = server_start(path, FAULT_NONE);
	CK_ULONG n = 1;
	CK_SLOT_ID slot;
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CK_SESSION_HANDLE h = session();
	CK_OBJECT_HANDLE objects[4];
	server_fault(s, FAULT_CODE_0); /* an error without a reason */
	WANT(p11->C_SignInit(h, &(CK_MECHANISM){.mechanism = CKM_ECDSA}, 0), CKR_DEVICE_ERROR);
	server_fault(s, FAULT_MANY);
	WANT(p11->C_FindObjects(h, objects, 4, &n), CKR_DEVICE_ERROR);
	n = 1;
	WANT(p11->C_GetSlotList(1, &slot, &n), CKR_DEVICE_ERROR);
	server_fault(s, FAULT_NONE);
	/* Fewer random bytes than asked for are none. */
	CK_BYTE random[16];
	WANT(p11->C_GenerateRandom(h, random, sizeof random), CKR_DEVICE_ERROR);
	WANT(p11->C_GenerateRandom(h, random, 0), CKR_OK);
	WANT(p11->C_GenerateRandom(h, NULL, 1), CKR_ARGUMENTS_BAD);
	WANT(sign(h, "x"), CKR_OK); /* and none of it cost the session */
	/* An answer to nothing ends the connection; the next call makes another. */
	server_fault(s, FAULT_TWICE);
	CK_RV rv = sign(h, "x");
	CHECK(rv == CKR_DEVICE_REMOVED || rv == CKR_SESSION_HANDLE_INVALID);
	server_fault(s, FAULT_NONE);
	CHECK(slots() == 1);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	server_stop(s);
}

static void test_attributes(void)
{
	struct server *s = server_start(path, FAULT_NONE);
	char label[16], small[2];
	CK_ULONG class, mechanisms[4];
	CK_BBOOL token = 0;
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CK_SESSION_HANDLE h = session();
	CK_OBJECT_HANDLE key = object(h);
	CK_ATTRIBUTE a[] = {{CKA_LABEL, NULL, 0}, {CKA_CLASS, NULL, 0}, {CKA_ALLOWED_MECHANISMS, NULL, 0}, {CKA_TOKEN, NULL, 0}};
	WANT(p11->C_GetAttributeValue(h, key, a, 4), CKR_OK);
	CHECK(a[0].ulValueLen == 6 && a[1].ulValueLen == sizeof class && a[2].ulValueLen == 2 * sizeof class && a[3].ulValueLen == 1);
	CK_ATTRIBUTE b[] = {{CKA_LABEL, label, sizeof label}, {CKA_CLASS, &class, sizeof class},
		{CKA_ALLOWED_MECHANISMS, mechanisms, sizeof mechanisms}, {CKA_TOKEN, &token, 1}};
	WANT(p11->C_GetAttributeValue(h, key, b, 4), CKR_OK);
	CHECK(b[0].ulValueLen == 6 && memcmp(label, "my key", 6) == 0 && class == CKO_PRIVATE_KEY && token == 1);
	CHECK(b[2].ulValueLen == 2 * sizeof class && mechanisms[1] == CKM_ECDSA_SHA256);
	/* One that is too small, one unknown and one that cannot be carried do
	 * not keep the others from being read. */
	CK_ATTRIBUTE c[] = {{CKA_LABEL, small, sizeof small}, {CKA_VALUE, label, sizeof label}, {CKA_WRAP_TEMPLATE, label, sizeof label},
		{CKA_CLASS, &class, sizeof class}};
	class = 0;
	CK_RV rv = p11->C_GetAttributeValue(h, key, c, 4);
	CHECK(rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL);
	for (int i = 0; i < 3; i++)
		CHECK(c[i].ulValueLen == CK_UNAVAILABLE_INFORMATION);
	CHECK(class == CKO_PRIVATE_KEY);
	WANT(p11->C_GetAttributeValue(h, key, NULL, 1), CKR_ARGUMENTS_BAD);
	WANT(p11->C_GetAttributeValue(h, key, NULL, 0), CKR_OK);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	server_stop(s);
}

static void test_mutated_frames(void)
{
	struct server *s = server_start(path, FAULT_NONE);
	long before = resident_kib();
	WANT(p11->C_Initialize(NULL), CKR_OK);
	for (int i = 0; i < 20000; i++) {
		server_fault(s, FAULT_NONE);
		CK_SESSION_HANDLE h;
		if (p11->C_OpenSession(7, CKF_SERIAL_SESSION, NULL, NULL, &h) != CKR_OK)
			continue;
		CK_OBJECT_HANDLE key = object(h);
		server_fault(s, FAULT_MUTATE);
		CK_SLOT_ID slot[2];
		CK_ULONG n = 2;
		CK_TOKEN_INFO token;
		CK_OBJECT_HANDLE objects[4];
		char label[8];
		CK_BYTE out[8];
		CK_ATTRIBUTE a[] = {{CKA_LABEL, label, sizeof label}, {CKA_CLASS, NULL, 0}};
		switch (i % 5) {
		case 0:
			p11->C_GetSlotList(1, slot, &n);
			break;
		case 1:
			p11->C_GetTokenInfo(7, &token);
			break;
		case 2:
			if (p11->C_FindObjects(h, objects, 4, &n) == CKR_OK)
				CHECK(n <= 4);
			break;
		case 3:
			p11->C_GetAttributeValue(h, key, a, 2);
			break;
		default:
			n = sizeof out;
			p11->C_Sign(h, (CK_BYTE *)"12345678", 8, out, &n);
		}
	}
	WANT(p11->C_Finalize(NULL), CKR_OK);
	server_stop(s);
	CHECK(resident_kib() - before < 16 << 10);
}

static void test_other_user(void)
{
	if (geteuid() != 0) {
		printf("hostile: not root, so there is no other user to try\n");
		return;
	}
	/* A peer of another user gets nothing, not even the first byte. */
	int report[2];
	char byte;
	CHECK(pipe(report) == 0 && chmod(dir, 0777) == 0);
	pid_t child = fork();
	if (child == 0) {
		CHECK(setuid(65534) == 0);
		struct server *s = server_start(path, FAULT_NONE);
		CHECK(write(report[1], "x", 1) == 1);
		close(report[1]);
		pause();
		server_stop(s);
		_exit(0);
	}
	close(report[1]);
	CHECK(read(report[0], &byte, 1) == 1);
	close(report[0]);
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CHECK(slots() == 0);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	CHECK(chmod(dir, 0700) == 0);
	unlink(path);
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	test_absent();
	test_where();
	test_useless_peers();
	test_odd_but_fine();
	test_lies();
	test_attributes();
	test_other_user();
	test_mutated_frames();
	end();
	printf("hostile: ok\n");
	return 0;
}
