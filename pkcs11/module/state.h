/*
 * state.h: what the module remembers between calls, and who may touch it.
 */
#ifndef KEYRINGD_STATE_H
#define KEYRINGD_STATE_H

#include "rpc.h"

struct state;

/*
 * state_begin and state_end are C_Initialize and C_Finalize. In a child of a
 * fork nothing is initialized, whatever its parent did.
 */
CK_RV state_begin(void);
CK_RV state_end(void);

/* state_get returns a reference to give back with state_put, or NULL. */
struct state *state_get(void);
void state_put(struct state *s);

/* state_ended tells whether C_Finalize came since state_get. */
bool state_ended(struct state *s);

/*
 * state_conn returns a reference to the connection. If there is none, or its
 * daemon is gone, it makes one where may_connect is set, and otherwise, or
 * without a daemon, returns NULL.
 */
struct conn *state_conn(struct state *s, bool may_connect);

/*
 * state_waiter opens a connection for one that waits for an event, which
 * state_end shuts as well. There is one at a time; NULL means that there is one
 * already, or no daemon. Give it back with state_waited.
 */
struct conn *state_waiter(struct state *s);
void state_waited(struct state *s, struct conn *c);

#endif
