/*
 * gate.c: a fork at the worst of moments, which a test from outside meets once in
 * a thousand years: while a thread of the parent holds the one lock that the
 * child needs.
 */
#define _GNU_SOURCE
#include "state.c" /* to hold its lock */

#include <sys/wait.h>

#include "test.h"

static void in_child(void)
{
	alarm(10);
	CHECK(state_get() == NULL);
	WANT(state_end(), CKR_CRYPTOKI_NOT_INITIALIZED);
	WANT(state_begin(), CKR_OK);
	WANT(state_begin(), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	struct state *s = state_get();
	CHECK(s != NULL && s->generation == 1 && s->conn == NULL);
	WANT(state_end(), CKR_OK);
	CHECK(state_get() == NULL && state_ended(s));
	state_put(s);
	_exit(0);
}

int main(void)
{
	for (int initialized = 0; initialized <= 1; initialized++) {
		if (initialized)
			WANT(state_begin(), CKR_OK);
		gate_lock();
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0)
			in_child();
		int status;
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(status == 0);
		gate_unlock();
	}
	struct state *s = state_get();
	CHECK(s != NULL && s->generation == 0);
	state_put(s);
	WANT(state_end(), CKR_OK);
	printf("gate: ok\n");
	return 0;
}
