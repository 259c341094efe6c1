/*
 * conn.h: one connection to the daemon, shared by all threads.
 *
 * A connection is an application to the server: sessions, logins and session
 * objects belong to it. So there is one per C_Initialize, not one per thread,
 * and calls of many threads are under way on it at once, told apart by the
 * number in the frame's header. keyringd serves them side by side, so that a
 * thread whose C_Sign waits for a person holds up nobody. `p11-kit server`
 * answers in turn; there it is no worse than with p11-kit's own client.
 *
 * No thread of ours reads: of those that wait for a reply one reads for all,
 * and passes the task on when it has its own.
 */
#ifndef KEYRINGD_CONN_H
#define KEYRINGD_CONN_H

#include <stdbool.h>

#include "wire.h"

/* A frame: number of the call, length of options, length of body. */
#define FRAME_HEADER 12

struct conn;

/*
 * conn_open connects to the Unix socket at path, agrees on a version and says
 * hello. It takes CONNECT_MS at most; *late says that it took all of it. It
 * returns NULL when there is no daemon, or one that is not to be trusted. The
 * caller owns the reference.
 */
struct conn *conn_open(const char *path, unsigned epoch, bool *late);
#define CONNECT_MS 5000

/* conn_ref and conn_unref count who uses it; the last one out closes it. */
void conn_ref(struct conn *c);
void conn_unref(struct conn *c);

/* conn_alive looks, without waiting, whether the peer is still there. */
bool conn_alive(struct conn *c);

/* conn_shut ends it for everybody: calls under way return. */
void conn_shut(struct conn *c);

/* The version that the peer answered, and which connection this is. */
uint8_t conn_version(const struct conn *c);
unsigned conn_epoch(const struct conn *c);

/*
 * conn_call sends a frame, for which request has FRAME_HEADER bytes of room in
 * front, and waits for its reply as long as it takes: a person may be reading a
 * question. It returns CKR_OK and the reply's body, which is the caller's, or
 * CKR_DEVICE_REMOVED when the connection ended first.
 */
CK_RV conn_call(struct conn *c, struct buffer *request, struct buffer *reply);

#endif
