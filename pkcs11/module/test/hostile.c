/*
 * hostile.c: the module against peers that are absent, broken, slow or
 * malicious. No call may crash, hang or give a caller what is not there.
 *
 *   hostile MODULE
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "server.h"
#include "test.h"

static CK_FUNCTION_LIST *p11;
static char dir[] = "/tmp/krXXXXXX";
static char path[64];

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

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

static CK_ULONG slots(void)
{
	CK_SLOT_ID slot;
	CK_ULONG n = 1;
	WANT(p11->C_GetSlotList(1, &slot, &n), CKR_OK);
	if (n == 1)
		CHECK(slot == 7);
	return n;
}

static CK_SESSION_HANDLE session(void)
{
	CK_SESSION_HANDLE h;
	WANT(p11->C_OpenSession(7, CKF_SERIAL_SESSION, NULL, NULL, &h), CKR_OK);
	return h;
}

static CK_OBJECT_HANDLE object(CK_SESSION_HANDLE h)
{
	CK_OBJECT_HANDLE found;
	CK_ULONG n = 0;
	WANT(p11->C_FindObjectsInit(h, NULL, 0), CKR_OK);
	WANT(p11->C_FindObjects(h, &found, 1, &n), CKR_OK);
	WANT(p11->C_FindObjectsFinal(h), CKR_OK);
	CHECK(n == 1);
	return found;
}

static CK_RV sign(CK_SESSION_HANDLE h, const char *text)
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

struct signer {
	pthread_t thread;
	CK_SESSION_HANDLE session;
	const char *text;
	CK_RV rv;
	atomic_bool done;
};

static void *signer(void *arg)
{
	struct signer *s = arg;
	s->rv = sign(s->session, s->text);
	s->done = true;
	return NULL;
}

static void wait_for_prompts(struct server *s, unsigned n)
{
	double end = seconds() + 20;
	while (server_prompts(s) != n && seconds() < end)
		usleep(200);
	CHECK(server_prompts(s) == n);
}

static void test_prompt_holds_up_nobody(void)
{
	struct server *s = server_start(path, FAULT_NONE);
	struct signer one = {.text = "prompt"}, more[8];
	WANT(p11->C_Initialize(NULL), CKR_OK);
	one.session = session();
	CHECK(pthread_create(&one.thread, NULL, signer, &one) == 0);
	wait_for_prompts(s, 1);
	/* Its thread reads for all now; others come and go meanwhile. */
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 8; i++) {
			memset(&more[i], 0, sizeof more[i]);
			more[i].text = "another";
			more[i].session = session();
			CHECK(pthread_create(&more[i].thread, NULL, signer, &more[i]) == 0);
		}
		for (int i = 0; i < 8; i++) {
			pthread_join(more[i].thread, NULL);
			WANT(more[i].rv, CKR_OK);
		}
	}
	CHECK(!one.done);
	WANT(sign(session(), "release"), CKR_OK);
	pthread_join(one.thread, NULL);
	WANT(one.rv, CKR_OK);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	server_stop(s);
}

static void test_dies_in_call(void)
{
	struct server *s = server_start(path, FAULT_NONE);
	struct signer one = {.text = "prompt"};
	WANT(p11->C_Initialize(NULL), CKR_OK);
	one.session = session();
	CK_SESSION_HANDLE other = session();
	CHECK(pthread_create(&one.thread, NULL, signer, &one) == 0);
	wait_for_prompts(s, 1);
	WANT(sign(other, "kill"), CKR_DEVICE_REMOVED);
	pthread_join(one.thread, NULL); /* the one that waited is told, too */
	WANT(one.rv, CKR_DEVICE_REMOVED);
	WANT(sign(other, "x"), CKR_SESSION_HANDLE_INVALID);

	/* Started anew while nobody called: the next call finds the new one. */
	CHECK(slots() == 1);
	server_stop(s);
	s = server_start(path, FAULT_NONE);
	CHECK(slots() == 1);
	CK_SESSION_HANDLE h = session();
	server_stop(s);
	WANT(sign(h, "x"), CKR_SESSION_HANDLE_INVALID);
	CHECK(slots() == 0);
	WANT(p11->C_Finalize(NULL), CKR_OK);
}

static void *waiter(void *arg)
{
	CK_SLOT_ID slot;
	*(CK_RV *)arg = p11->C_WaitForSlotEvent(0, &slot, NULL);
	return NULL;
}

static void test_finalize_ends_waiting(void)
{
	struct server *s = server_start(path, FAULT_NONE);
	struct signer one = {.text = "prompt"};
	pthread_t thread;
	CK_RV rv = CKR_OK;
	CK_SLOT_ID slot;
	WANT(p11->C_Initialize(NULL), CKR_OK);
	one.session = session();
	CHECK(pthread_create(&one.thread, NULL, signer, &one) == 0);
	wait_for_prompts(s, 1);
	unsigned before = server_requests(s);
	CHECK(pthread_create(&thread, NULL, waiter, &rv) == 0);
	double end = seconds() + 20;
	while (server_requests(s) < before + 2 && seconds() < end)
		usleep(200);
	CHECK(server_requests(s) == before + 2); /* hello and the wait */
	WANT(p11->C_WaitForSlotEvent(0, &slot, NULL), CKR_FUNCTION_NOT_SUPPORTED); /* one is enough */
	WANT(sign(session(), "x"), CKR_OK); /* and it is in nobody's way */
	WANT(p11->C_Finalize(NULL), CKR_OK);
	pthread_join(thread, NULL);
	pthread_join(one.thread, NULL);
	WANT(rv, CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(one.rv, CKR_CRYPTOKI_NOT_INITIALIZED);
	server_stop(s);
}

static void test_silent(void)
{
	/* A daemon that is stuck costs one timeout, not one for each call. */
	struct server *s = server_start(path, FAULT_SILENT);
	double start = seconds();
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CHECK(slots() == 0);
	double took = seconds() - start;
	CHECK(took > 4 && took < 8);
	start = seconds();
	for (int i = 0; i < 10; i++)
		CHECK(slots() == 0);
	CHECK(seconds() - start < 2);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	server_stop(s);
}

static void test_stalls(void)
{
	/* Somebody may think about a question for hours; nobody sends half an
	 * answer. */
	struct server *s = server_start(path, FAULT_NONE);
	WANT(p11->C_Initialize(NULL), CKR_OK);
	CK_SESSION_HANDLE h = session();
	server_fault(s, FAULT_STALL);
	double start = seconds();
	WANT(sign(h, "x"), CKR_DEVICE_REMOVED);
	CHECK(seconds() - start > 4 && seconds() - start < 8);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	server_stop(s);
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
	void *handle;
	CHECK(argc == 2 && mkdtemp(dir) != NULL);
	snprintf(path, sizeof path, "%s/s", dir);
	setenv("KEYRINGD_PKCS11_SOCKET", path, 1);
	p11 = load(argv[1], &handle);
	alarm(300); /* a hang is a failure, too */
	test_absent();
	test_where();
	test_useless_peers();
	test_odd_but_fine();
	test_lies();
	test_attributes();
	test_prompt_holds_up_nobody();
	test_dies_in_call();
	test_finalize_ends_waiting();
	test_other_user();
	test_mutated_frames();
	test_silent();
	test_stalls();
	dlclose(handle);
	CHECK(rmdir(dir) == 0);
	printf("hostile: ok\n");
	return 0;
}
