#define _GNU_SOURCE /* secure_getenv */
#include "state.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct state {
	unsigned generation; /* of the process it belongs to */
	unsigned refs;       /* guarded by the gate; one is for `current` */
	atomic_bool ended;

	pthread_mutex_t mu; /* guards all below */
	struct conn *conn;
	struct conn *waiter;
	time_t not_before; /* a daemon that hung is left alone until then */

	struct state *inherited; /* the next that a fork left behind */
};

/*
 * How many forks lie between the process that loaded the module and this one.
 * The child's handler does nothing but count: it may run while any lock of any
 * library is held by a thread that no longer exists.
 */
static atomic_uint forks;
static bool counting;

static void forked(void)
{
	atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

/*
 * The gate guards `current` and the counts of references, for a few
 * instructions at a time. It is not a mutex because the one thread that held it
 * may be missing in a child: a lock taken in another process is free.
 */
static _Atomic uint64_t gate;
static struct state *current;
static unsigned current_generation;
static struct state *inherited; /* not ours to free, and never used */
static unsigned epochs; /* connections ever made, for their handles */

static void gate_lock(void)
{
	uint64_t held = (uint64_t)atomic_load(&forks) << 1 | 1;
	for (unsigned tries = 0;; tries++) {
		uint64_t seen = atomic_load(&gate);
		if (seen != held && atomic_compare_exchange_weak(&gate, &seen, held))
			return;
		if (tries < 64) {
			sched_yield();
		} else { /* whoever holds it must get to run, even below us */
			struct timespec pause = {.tv_nsec = 50000};
			nanosleep(&pause, NULL);
		}
	}
}

static void gate_unlock(void)
{
	atomic_store(&gate, 0);
}

static struct state *current_locked(void)
{
	return current != NULL && current_generation == atomic_load(&forks) ? current : NULL;
}

static void state_free(struct state *s)
{
	if (s->conn != NULL)
		conn_unref(s->conn);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

__attribute__((constructor)) static void loaded(void)
{
	/* Taken back by the C library when the module is unloaded. */
	counting = pthread_atfork(NULL, NULL, forked) == 0;
}

__attribute__((destructor)) static void unloaded(void)
{
	/* A host that unloads without C_Finalize, or a process that ends, maybe
	 * while other threads are in calls: those keep what they use. */
	state_end();
}

CK_RV state_begin(void)
{
	struct state *s = calloc(1, sizeof *s);
	if (s == NULL || !counting) {
		free(s);
		return CKR_HOST_MEMORY;
	}
	if (pthread_mutex_init(&s->mu, NULL) != 0) {
		free(s);
		return CKR_HOST_MEMORY;
	}
	s->refs = 1;
	s->generation = atomic_load(&forks);

	gate_lock();
	bool already = current_locked() != NULL;
	if (!already) {
		/* A parent's state stays as it is: its socket is the parent's,
		 * its number may be another file by now, its locks may be held
		 * by threads that are not here. */
		if (current != NULL) {
			current->inherited = inherited;
			inherited = current;
		}
		current = s;
		current_generation = s->generation;
	}
	gate_unlock();
	if (already) {
		state_free(s);
		return CKR_CRYPTOKI_ALREADY_INITIALIZED;
	}
	return CKR_OK;
}

CK_RV state_end(void)
{
	gate_lock();
	struct state *s = current_locked();
	if (s != NULL)
		current = NULL;
	gate_unlock();
	if (s == NULL)
		return CKR_CRYPTOKI_NOT_INITIALIZED;

	/* Hanging up is all that a server needs to know; a farewell could have
	 * to wait behind somebody's prompt. */
	atomic_store(&s->ended, true);
	pthread_mutex_lock(&s->mu);
	if (s->conn != NULL)
		conn_shut(s->conn);
	if (s->waiter != NULL)
		conn_shut(s->waiter);
	pthread_mutex_unlock(&s->mu);
	state_put(s);
	return CKR_OK;
}

struct state *state_get(void)
{
	gate_lock();
	struct state *s = current_locked();
	if (s != NULL)
		s->refs++;
	gate_unlock();
	return s;
}

void state_put(struct state *s)
{
	gate_lock();
	bool last = --s->refs == 0;
	gate_unlock();
	if (last)
		state_free(s);
}

bool state_ended(struct state *s)
{
	return atomic_load(&s->ended);
}

/*
 * socket_path writes where the daemon listens. A program that runs with rights
 * its caller lacks looks at no environment of that caller's.
 */
static bool socket_path(char *path, size_t size)
{
	const char *set = secure_getenv("KEYRINGD_PKCS11_SOCKET");
	const char *dir = secure_getenv("XDG_RUNTIME_DIR");
	int n;

	if (set != NULL && *set != '\0')
		n = snprintf(path, size, "%s", set);
	else if (dir != NULL && *dir == '/')
		n = snprintf(path, size, "%s/keyringd/pkcs11", dir);
	else
		n = snprintf(path, size, "/run/user/%lu/keyringd/pkcs11", (unsigned long)geteuid());
	return n > 0 && (size_t)n < size;
}

static time_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static struct conn *open_locked(struct state *s)
{
	char path[256];
	bool late = false;

	if (state_ended(s) || now() < s->not_before || !socket_path(path, sizeof path))
		return NULL;
	gate_lock();
	unsigned epoch = epochs++;
	gate_unlock();
	struct conn *c = conn_open(path, epoch, &late);
	/* A program makes several calls before it believes that there is no
	 * token; it need not wait in each of them. */
	s->not_before = late ? now() + CONNECT_MS / 1000 : 0;
	return c;
}

struct conn *state_conn(struct state *s, bool may_connect)
{
	pthread_mutex_lock(&s->mu);
	if (s->conn != NULL && !conn_alive(s->conn)) {
		conn_unref(s->conn);
		s->conn = NULL;
	}
	if (s->conn == NULL && may_connect)
		s->conn = open_locked(s);
	struct conn *c = s->conn;
	if (c != NULL)
		conn_ref(c);
	pthread_mutex_unlock(&s->mu);
	return c;
}

struct conn *state_waiter(struct state *s)
{
	pthread_mutex_lock(&s->mu);
	struct conn *c = NULL;
	if (s->waiter == NULL) {
		c = open_locked(s);
		s->waiter = c;
	}
	pthread_mutex_unlock(&s->mu);
	return c;
}

void state_waited(struct state *s, struct conn *c)
{
	pthread_mutex_lock(&s->mu);
	s->waiter = NULL;
	pthread_mutex_unlock(&s->mu);
	conn_unref(c);
}
