/*
 * waits.c: the module while it waits: for a person, for a peer that is stuck, and
 * for one that dies meanwhile. No call may hang, or hold up another's.
 *
 *   waits MODULE
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "calls.h"
#include "server.h"

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

int main(int argc, char **argv)
{
	begin(argc, argv);
	test_prompt_holds_up_nobody();
	test_dies_in_call();
	test_finalize_ends_waiting();
	test_silent();
	test_stalls();
	end();
	printf("waits: ok\n");
	return 0;
}
