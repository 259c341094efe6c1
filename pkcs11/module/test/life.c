/*
 * life.c: the module in processes that load it, unload it, fork, and use it
 * from many threads.
 *
 *   life MODULE
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "server.h"
#include "test.h"

#define FORKS 200

/* AddressSanitizer's own malloc hangs in the child of a fork beside threads. */
#ifdef __SANITIZE_ADDRESS__
#define THREADS 0
#else
#define THREADS 4
#endif

static const char *module;
static char dir[] = "/tmp/krXXXXXX";
static char path[64];

static int open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;
	CHECK(d != NULL);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static void once(CK_FUNCTION_LIST *p11)
{
	CK_MECHANISM m = {.mechanism = CKM_ECDSA};
	CK_SESSION_HANDLE h;
	CK_SLOT_ID slot;
	CK_BYTE out[16];
	CK_ULONG n = 1;
	WANT(p11->C_GetSlotList(1, &slot, &n), CKR_OK);
	CHECK(n == 1);
	WANT(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &h), CKR_OK);
	WANT(p11->C_SignInit(h, &m, 0), CKR_OK);
	n = sizeof out;
	WANT(p11->C_Sign(h, (CK_BYTE *)"data", 4, out, &n), CKR_OK);
	CHECK(n == 4 && memcmp(out, "data", 4) == 0);
	n = 2;
	WANT(p11->C_Sign(h, (CK_BYTE *)"data", 4, out, &n), CKR_BUFFER_TOO_SMALL);
	CHECK(n == 4);
	WANT(p11->C_CloseSession(h), CKR_OK);
}

static void test_begin_and_end(void)
{
	void *handle;
	CK_FUNCTION_LIST *p11 = load(module, &handle), *same;
	CK_INFO info;
	CHECK(p11->version.major == 2 && p11->version.minor == 40);

	/* All 68 are there, and none works before C_Initialize. */
	unsigned count = 0;
#define THERE(name, parameters) CHECK(p11->name != NULL); count++;
	CRYPTOKI_FUNCTIONS(THERE)
	CHECK(count == 68);
	WANT(p11->C_GetFunctionList(&same), CKR_OK);
	CHECK(same == p11);
	WANT(p11->C_GetFunctionList(NULL), CKR_ARGUMENTS_BAD);
	WANT(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_CloseSession(1), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_GetFunctionStatus(1), CKR_FUNCTION_NOT_PARALLEL);
	WANT(p11->C_CancelFunction(1), CKR_FUNCTION_NOT_PARALLEL);

	/* v2.40 §5.4: what C_Initialize takes. */
	CK_C_INITIALIZE_ARGS args = {0};
	WANT(p11->C_Initialize(&args), CKR_OK); /* one thread only */
	WANT(p11->C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	WANT(p11->C_Finalize(&args), CKR_ARGUMENTS_BAD);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	WANT(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
	args.pReserved = &args;
	WANT(p11->C_Initialize(&args), CKR_ARGUMENTS_BAD);
	args.pReserved = NULL;
	args.LockMutex = (CK_RV (*)(void *))(void (*)(void))abort;
	WANT(p11->C_Initialize(&args), CKR_ARGUMENTS_BAD);
	args.UnlockMutex = args.DestroyMutex = args.LockMutex;
	args.CreateMutex = (CK_RV (*)(void **))(void (*)(void))abort;
	WANT(p11->C_Initialize(&args), CKR_CANT_LOCK);
	args.flags = CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS;
	WANT(p11->C_Initialize(&args), CKR_OK);
	once(p11);
	/* C_GetInfo is the daemon's own word when there is one. */
	WANT(p11->C_GetInfo(&info), CKR_OK);
	CHECK(memcmp(info.manufacturerID, "a test   ", 9) == 0 && info.libraryVersion.minor == 4);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	dlclose(handle);
}

static void test_interfaces(void)
{
	void *handle;
	CK_FUNCTION_LIST *p11 = load(module, &handle);
	CK_RV (*list)(CK_INTERFACE *, CK_ULONG *);
	CK_RV (*get)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
	CK_INTERFACE all[2], *one;
	CK_ULONG n = 0;
	CK_VERSION v2 = {2, 40}, v3 = {3, 0};
	*(void **)&list = dlsym(handle, "C_GetInterfaceList");
	*(void **)&get = dlsym(handle, "C_GetInterface");
	CHECK(list != NULL && get != NULL);
	WANT(list(NULL, NULL), CKR_ARGUMENTS_BAD);
	WANT(list(NULL, &n), CKR_OK);
	CHECK(n == 1);
	n = 0;
	WANT(list(all, &n), CKR_BUFFER_TOO_SMALL);
	n = 2;
	WANT(list(all, &n), CKR_OK);
	CHECK(n == 1 && strcmp((char *)all[0].pInterfaceName, "PKCS 11") == 0 && all[0].pFunctionList == p11);
	WANT(get(NULL, NULL, &one, 0), CKR_OK);
	CHECK(one->pFunctionList == p11);
	WANT(get((CK_UTF8CHAR *)"PKCS 11", &v2, &one, 0), CKR_OK);
	WANT(get((CK_UTF8CHAR *)"PKCS 11", &v3, &one, 0), CKR_FUNCTION_FAILED);
	WANT(get((CK_UTF8CHAR *)"Vendor", NULL, &one, 0), CKR_FUNCTION_FAILED);
	WANT(get(NULL, NULL, &one, 1), CKR_FUNCTION_FAILED); /* does not survive a fork as it is */
	WANT(get(NULL, NULL, NULL, 0), CKR_ARGUMENTS_BAD);
	dlclose(handle);
}

static void test_leaves_nothing(void)
{
	void *handle;
	CK_FUNCTION_LIST *p11 = load(module, &handle);
	int files = open_files();
	for (int i = 0; i < 100; i++) {
		WANT(p11->C_Initialize(NULL), CKR_OK);
		once(p11);
		WANT(p11->C_Finalize(NULL), CKR_OK);
	}
	dlclose(handle);
	/* Loaded and unloaded, with and without C_Finalize, and forks after. */
	for (int i = 0; i < 100; i++) {
		p11 = load(module, &handle);
		WANT(p11->C_Initialize(NULL), CKR_OK);
		once(p11);
		if (i % 2)
			WANT(p11->C_Finalize(NULL), CKR_OK);
		dlclose(handle);
		CHECK(dlopen(module, RTLD_NOW | RTLD_NOLOAD) == NULL);
		if (i % 10 == 0) {
			pid_t child = fork(); /* a handler left behind would crash it */
			if (child == 0)
				_exit(0);
			int status;
			CHECK(waitpid(child, &status, 0) == child && status == 0);
		}
	}
	CHECK(open_files() == files);
}

static void test_descriptors(bool without_streams)
{
	/* A host that closed its standard streams does not find us there, and
	 * what it executes inherits nothing. */
	pid_t child = fork();
	if (child == 0) {
		void *handle;
		CK_FUNCTION_LIST *p11 = load(module, &handle);
		alarm(20);
		if (without_streams) {
			close(0);
			close(1);
		}
		WANT(p11->C_Initialize(NULL), CKR_OK);
		once(p11);
		if (without_streams)
			CHECK(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
		int ours = -1;
		for (int fd = 3; fd < 100; fd++) {
			char name[64], to[64] = "";
			snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
			if (readlink(name, to, sizeof to - 1) > 0 && strncmp(to, "socket:", 7) == 0) {
				CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
				ours = fd;
			}
		}
		CHECK(ours >= 0);
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

struct worker {
	pthread_t thread;
	CK_FUNCTION_LIST *p11;
	atomic_bool *stop;
	unsigned calls;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	while (!*w->stop) {
		once(w->p11);
		w->calls++;
	}
	return NULL;
}

static void in_child(CK_FUNCTION_LIST *p11)
{
	CK_INFO info;
	CK_SLOT_ID slot;
	alarm(20);
	WANT(p11->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_CloseSession(1), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_WaitForSlotEvent(0, &slot, NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(p11->C_Initialize(NULL), CKR_OK);
	once(p11);
	pid_t grandchild = fork();
	if (grandchild == 0) {
		WANT(p11->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
		WANT(p11->C_Initialize(NULL), CKR_OK);
		once(p11);
		WANT(p11->C_Finalize(NULL), CKR_OK);
		WANT(p11->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
		_exit(0);
	}
	int status;
	CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
	once(p11);
	WANT(p11->C_Finalize(NULL), CKR_OK);
	_exit(0);
}

/* In the child, threads of the parent are missing in the middle of calls, with
 * every lock of the module's held now and then. */
static void test_forks(void)
{
	void *handle;
	struct worker workers[THREADS + 1];
	atomic_bool stop = false;
	CK_FUNCTION_LIST *p11 = load(module, &handle);
	WANT(p11->C_Initialize(NULL), CKR_OK);
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){.p11 = p11, .stop = &stop};
		CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
	}
	for (int i = 0; i < FORKS; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0)
			in_child(p11);
		int status;
		CHECK(waitpid(child, &status, 0) == child);
		if (status != 0) {
			fprintf(stderr, "round %d: a child ended with 0x%x\n", i, (unsigned)status);
			abort();
		}
	}
	once(p11); /* the parent never noticed */
	stop = true;
	unsigned calls = 0;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		calls += workers[i].calls;
	}
	WANT(p11->C_Finalize(NULL), CKR_OK);
	dlclose(handle);
	printf("life: %d forks and as many within, beside %d threads with %u rounds of calls\n", FORKS, THREADS, calls);
}

static void test_cancelled_thread(void)
{
	void *handle;
	CK_FUNCTION_LIST *p11 = load(module, &handle);
	atomic_bool stop = false;
	struct worker w = {.p11 = p11, .stop = &stop};
	WANT(p11->C_Initialize(NULL), CKR_OK);
	for (int i = 0; i < 50; i++) {
		CHECK(pthread_create(&w.thread, NULL, work, &w) == 0);
		once(p11);
		pthread_cancel(w.thread);
		stop = true; /* a call is not a place to be cancelled in */
		pthread_join(w.thread, NULL);
		stop = false;
		once(p11);
	}
	WANT(p11->C_Finalize(NULL), CKR_OK);
	dlclose(handle);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2 && mkdtemp(dir) != NULL);
	module = argv[1];
	snprintf(path, sizeof path, "%s/s", dir);
	setenv("KEYRINGD_PKCS11_SOCKET", path, 1);
	alarm(300);

	/* The server lives in a process of its own, so that forks here do not
	 * copy it, and dies with this one's end of the pipe. */
	int up[2], life[2];
	char byte;
	CHECK(pipe(up) == 0 && pipe(life) == 0);
	pid_t server = fork();
	if (server == 0) {
		close(life[1]);
		struct server *s = server_start(path, FAULT_NONE);
		CHECK(write(up[1], "x", 1) == 1);
		while (read(life[0], &byte, 1) > 0)
			;
		server_stop(s);
		_exit(0);
	}
	close(life[0]);
	CHECK(fcntl(life[1], F_SETFD, FD_CLOEXEC) == 0);
	CHECK(read(up[0], &byte, 1) == 1);

	test_begin_and_end();
	test_interfaces();
	test_leaves_nothing();
	test_descriptors(false);
	test_descriptors(true);
	test_cancelled_thread();
	test_forks();

	close(life[1]);
	int status;
	CHECK(waitpid(server, &status, 0) == server && status == 0);
	CHECK(rmdir(dir) == 0);
	printf("life: ok\n");
	return 0;
}
