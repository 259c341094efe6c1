/*
 * server.h: a peer for the module that does what a test wants, good or bad. It
 * runs in threads of the test.
 *
 * It has one token in slot 7 and one object. C_Sign returns what it is given,
 * and looks at its first byte: 'p' is answered only after an 'r' came, as if a
 * person had to be asked, and 'k' ends the connection.
 */
#ifndef KEYRINGD_TEST_SERVER_H
#define KEYRINGD_TEST_SERVER_H

#include <stdbool.h>

enum fault {
	FAULT_NONE,
	FAULT_HANG_UP,     /* at once */
	FAULT_SILENT,      /* not even a version */
	FAULT_NEWER,       /* answers a version above the offer */
	FAULT_ONLY_0,      /* hangs up on any offer but 0, as p11-kit did once */
	FAULT_NO_HELLO,    /* goes after the version */
	FAULT_BODY_1GIB,   /* says so in the header of a reply */
	FAULT_BODY_MAX,
	FAULT_OPTIONS_1GIB,
	FAULT_NUMBER,      /* answers another call */
	FAULT_TWICE,       /* answers each call twice */
	FAULT_DRIBBLE,     /* one byte at a time */
	FAULT_SHORT,       /* half a frame, then the end */
	FAULT_STALL,       /* half a frame, and nothing more */
	FAULT_CODE_0,      /* an error that is none */
	FAULT_MANY,        /* arrays that say they have four thousand million members */
	FAULT_MUTATE,      /* one to four random changes in each frame */
};

struct server;

/* server_start listens at path, which it removes first. */
struct server *server_start(const char *path, enum fault fault);

/* server_fault changes how it behaves from the next frame on. */
void server_fault(struct server *s, enum fault fault);

/* server_requests is how many frames came; server_prompts how many wait. */
unsigned server_requests(struct server *s);
unsigned server_prompts(struct server *s);

/* server_stop ends all connections and removes the socket. */
void server_stop(struct server *s);

#endif
