/*
 * calls.h: what the tests against a server share: the module, and the calls that
 * a program makes with it. A call that fails where it must not ends the test.
 */
#ifndef KEYRINGD_TEST_CALLS_H
#define KEYRINGD_TEST_CALLS_H

#include "test.h"

extern CK_FUNCTION_LIST *p11;
extern char dir[];  /* of this test alone */
extern char path[]; /* in it, where the module looks for the server */

/* begin loads the module that is the one argument; end unloads it. Nothing may be
 * left in dir by then. */
void begin(int argc, char **argv);
void end(void);

/* seconds is the time since some moment. */
double seconds(void);

/* slots is how many slots with a token there are. */
CK_ULONG slots(void);

/* session opens one with the server's token, and object is what it finds there. */
CK_SESSION_HANDLE session(void);
CK_OBJECT_HANDLE object(CK_SESSION_HANDLE h);

/* sign has the server sign a text, as server.h says, and checks what it returns. */
CK_RV sign(CK_SESSION_HANDLE h, const char *text);

#endif
