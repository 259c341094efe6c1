#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "rpc.h"
#include "test.h"

#define MAX_CONNS 256

struct server {
	char path[108];
	int listener;
	pthread_t thread;
	_Atomic enum fault fault;
	atomic_uint requests, prompts;

	pthread_mutex_t mu;
	struct {
		int fd; /* 0: free */
		bool over;
		pthread_t thread;
	} conns[MAX_CONNS];
	int asked_fd; /* who waits for the person */
	uint32_t asked_number;
	uint8_t asked[256];
	size_t asked_len;
};

struct peer {
	struct server *server;
	unsigned index;
	int fd;
	unsigned sessions;
	unsigned long long random;
};

static bool all(int fd, void *p, size_t n, bool out)
{
	uint8_t *at = p;
	while (n > 0) {
		ssize_t k = out ? send(fd, at, n, MSG_NOSIGNAL) : recv(fd, at, n, 0);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		at += k;
		n -= (size_t)k;
	}
	return true;
}

static void begin(struct buffer *b, uint32_t call, const char *signature)
{
	buffer_extend(b, FRAME_HEADER);
	put_u32(b, call);
	put_bytes(b, signature, strlen(signature));
}

static void fail(struct buffer *b, CK_RV rv)
{
	begin(b, CALL_ERROR, "u");
	put_ulong(b, rv);
}

static void padded(struct buffer *b, const char *text, size_t n)
{
	char s[64];
	memset(s, ' ', sizeof s);
	memcpy(s, text, strlen(text));
	put_bytes(b, s, n);
}

static bool finish(struct server *s, struct peer *p, int fd, uint32_t number, struct buffer *b)
{
	enum fault fault = s->fault;
	uint32_t body = (uint32_t)(b->len - FRAME_HEADER), options = 0;
	bool ok, last = false;

	if (fault == FAULT_BODY_1GIB)
		body = 1u << 30;
	if (fault == FAULT_BODY_MAX)
		body = UINT32_MAX;
	if (fault == FAULT_OPTIONS_1GIB)
		options = 1u << 30;
	if (fault == FAULT_NUMBER)
		number += 17;
	store_u32(b->data, number);
	store_u32(b->data + 4, options);
	store_u32(b->data + 8, body);
	if (fault == FAULT_MUTATE) {
		for (unsigned n = 1 + next_random(&p->random) % 4; n > 0; n--) {
			/* The header now and then: it ends the connection. */
			size_t from = next_random(&p->random) % 16 == 0 ? 0 : FRAME_HEADER;
			last |= from == 0;
			size_t at = from + next_random(&p->random) % (b->len - from);
			static const uint8_t likely[] = {0, 1, 0x7f, 0x80, 0xff};
			unsigned v = next_random(&p->random);
			b->data[at] = v % 2 ? likely[v / 2 % 5] : (uint8_t)(v >> 8);
		}
	}
	if (fault == FAULT_DRIBBLE) {
		ok = true;
		for (size_t i = 0; ok && i < b->len; i++)
			ok = all(fd, b->data + i, 1, true);
	} else if (fault == FAULT_SHORT || fault == FAULT_STALL) {
		ok = all(fd, b->data, b->len / 2, true) && fault == FAULT_STALL;
	} else {
		ok = all(fd, b->data, b->len, true);
		if (ok && fault == FAULT_TWICE)
			ok = all(fd, b->data, b->len, true);
	}
	buffer_free(b);
	return ok && !last;
}

static void signature(struct buffer *b, const uint8_t *data, size_t n)
{
	begin(b, CALL_Sign, "ay");
	put_byte(b, 1);
	put_bytes(b, data, n);
}

static bool sign(struct peer *p, uint32_t number, struct reader *r, struct buffer *b)
{
	struct server *s = p->server;
	struct buffer freed = {0};
	size_t n;
	get_ulong(r);
	get_byte(r);
	const uint8_t *data = get_bytes(r, &n);
	uint32_t room = get_u32(r);
	int fd = -1;

	CHECK(data != NULL && n <= sizeof s->asked);
	if (n > 0 && data[0] == 'k')
		return false;
	if (room < n) {
		begin(b, CALL_Sign, "ay");
		put_byte(b, 0);
		put_u32(b, (uint32_t)n);
		return true;
	}
	pthread_mutex_lock(&s->mu);
	if (n > 0 && data[0] == 'p') {
		s->asked_fd = p->fd;
		s->asked_number = number;
		memcpy(s->asked, data, n);
		s->asked_len = n;
	} else if (n > 0 && data[0] == 'r' && s->asked_fd >= 0) {
		signature(&freed, s->asked, s->asked_len);
		fd = s->asked_fd;
		s->asked_fd = -1;
	}
	pthread_mutex_unlock(&s->mu);
	if (n > 0 && data[0] == 'p') {
		s->prompts++;
		return true; /* b stays empty: no answer now */
	}
	if (fd >= 0) {
		s->prompts--;
		finish(s, p, fd, s->asked_number, &freed);
	}
	signature(b, data, n);
	return true;
}

static void attributes(struct reader *r, struct buffer *b)
{
	get_ulong(r);
	get_ulong(r);
	uint32_t n = get_u32(r);
	CK_RV rv = CKR_OK;
	begin(b, CALL_GetAttributeValue, "aAu");
	put_u32(b, n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t type = get_u32(r), room = get_u32(r);
		put_u32(b, type);
		if (type != CKA_LABEL && type != CKA_CLASS && type != CKA_ALLOWED_MECHANISMS && type != CKA_TOKEN) {
			put_byte(b, 0);
			rv = CKR_ATTRIBUTE_TYPE_INVALID;
			continue;
		}
		put_byte(b, 1);
		if (type == CKA_CLASS) {
			put_u32(b, 8);
			put_ulong(b, CKO_PRIVATE_KEY);
		} else if (type == CKA_TOKEN) {
			put_u32(b, 1);
			put_byte(b, 1);
		} else if (type == CKA_ALLOWED_MECHANISMS) {
			put_u32(b, 16);
			put_u32(b, 2);
			put_ulong(b, CKM_ECDSA);
			put_ulong(b, CKM_ECDSA_SHA256);
		} else {
			put_u32(b, 6);
			put_bytes(b, room >= 6 ? "my key" : NULL, 6);
		}
	}
	put_ulong(b, rv);
}

/* answer writes the reply to one request, or leaves b empty for none. */
static bool answer(struct peer *p, uint32_t number, struct reader *r, struct buffer *b)
{
	struct server *s = p->server;
	uint32_t call = get_u32(r), n = 1;
	size_t len;
	get_bytes(r, &len);

	if (s->fault == FAULT_CODE_0 && call != CALL_Initialize) {
		fail(b, CKR_OK);
		return true;
	}
	if (s->fault == FAULT_MANY)
		n = UINT32_MAX;
	switch (call) {
	case CALL_Initialize:
		begin(b, call, "");
		return s->fault != FAULT_NO_HELLO;
	case CALL_GetInfo:
		begin(b, call, "vsusv");
		put_byte(b, 2), put_byte(b, 40);
		padded(b, "a test", 32);
		put_ulong(b, 0);
		padded(b, "a test's server", 32);
		put_byte(b, 3), put_byte(b, 4);
		return true;
	case CALL_GetSlotList: {
		get_byte(r);
		bool room = get_u32(r) > 0;
		begin(b, call, "au");
		put_byte(b, room);
		put_u32(b, n);
		if (room)
			put_ulong(b, 7);
		return true;
	}
	case CALL_GetTokenInfo:
		if (get_ulong(r) != 7) {
			fail(b, CKR_SLOT_ID_INVALID);
			return true;
		}
		begin(b, call, "ssssuuuuuuuuuuuvvs");
		padded(b, "a token", 32);
		padded(b, "nobody", 32);
		padded(b, "none", 16);
		padded(b, "0001", 16);
		for (unsigned i = 0; i < 10; i++)
			put_ulong(b, i);
		put_ulong(b, CK_UNAVAILABLE_INFORMATION);
		put_byte(b, 1), put_byte(b, 2);
		put_byte(b, 3), put_byte(b, 4);
		padded(b, "2026112311000000", 16);
		return true;
	case CALL_OpenSession:
		begin(b, call, "u");
		put_ulong(b, ++p->sessions);
		return true;
	case CALL_FindObjects:
		begin(b, call, "au");
		put_byte(b, 1);
		put_u32(b, n);
		put_ulong(b, 3);
		return true;
	case CALL_GetAttributeValue:
		attributes(r, b);
		return true;
	case CALL_Sign:
		return sign(p, number, r, b);
	case CALL_GenerateRandom:
		begin(b, call, "ay");
		put_byte(b, 1);
		get_ulong(r);
		for (n = get_u32(r) / 2; n > 4; n--) /* too few */
			;
		put_bytes(b, "\1\2\3\4", n);
		return true;
	case CALL_WaitForSlotEvent:
		return true; /* nothing ever happens */
	case CALL_CloseSession: case CALL_FindObjectsInit: case CALL_FindObjectsFinal: case CALL_SignInit:
		begin(b, call, "");
		return true;
	default:
		fail(b, CKR_FUNCTION_NOT_SUPPORTED);
		return true;
	}
}

static void serve(struct peer *p)
{
	struct server *s = p->server;
	uint8_t offer, version, header[FRAME_HEADER];

	if (s->fault == FAULT_HANG_UP || !all(p->fd, &offer, 1, false))
		return;
	while (s->fault == FAULT_SILENT)
		if (!all(p->fd, header, 1, false))
			return;
	if (s->fault == FAULT_ONLY_0 && offer != 0)
		return;
	version = s->fault == FAULT_NEWER ? (uint8_t)(offer + 1) : offer;
	if (!all(p->fd, &version, 1, true))
		return;
	for (;;) {
		struct buffer request = {0}, reply = {0};
		if (!all(p->fd, header, sizeof header, false))
			return;
		struct reader r = {.p = header, .left = sizeof header};
		uint32_t number = get_u32(&r), options = get_u32(&r), body = get_u32(&r);
		CHECK(options == 0 && number != 0 && body <= WIRE_MAX_BODY);
		bool ok = all(p->fd, buffer_extend(&request, body), body, false);
		s->requests++;
		r = (struct reader){.p = request.data, .left = request.len};
		ok = ok && answer(p, number, &r, &reply) && (reply.len == 0 || finish(s, p, p->fd, number, &reply));
		buffer_free(&request);
		buffer_free(&reply);
		if (!ok)
			return;
	}
}

static void *serve_thread(void *arg)
{
	struct peer *p = arg;
	serve(p);
	shutdown(p->fd, SHUT_RDWR);
	pthread_mutex_lock(&p->server->mu);
	p->server->conns[p->index].over = true;
	pthread_mutex_unlock(&p->server->mu);
	free(p);
	return NULL;
}

static void *accept_thread(void *arg)
{
	struct server *s = arg;
	unsigned long long seed = 88172645463325252ull;
	for (;;) {
		int fd = accept(s->listener, NULL, NULL);
		if (fd < 0)
			return NULL;
		struct peer *p = calloc(1, sizeof *p);
		CHECK(p != NULL);
		p->server = s;
		p->fd = fd;
		next_random(&seed);
		p->random = seed;
		pthread_mutex_lock(&s->mu);
		unsigned i = MAX_CONNS;
		for (unsigned k = 0; k < MAX_CONNS; k++) {
			if (s->conns[k].over) {
				pthread_join(s->conns[k].thread, NULL);
				close(s->conns[k].fd);
				s->conns[k].fd = 0;
				s->conns[k].over = false;
			}
			if (s->conns[k].fd == 0)
				i = k;
		}
		CHECK(i < MAX_CONNS);
		p->index = i;
		s->conns[i].fd = fd;
		CHECK(pthread_create(&s->conns[i].thread, NULL, serve_thread, p) == 0);
		pthread_mutex_unlock(&s->mu);
	}
}

struct server *server_start(const char *path, enum fault fault)
{
	struct server *s = calloc(1, sizeof *s);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	CHECK(s != NULL && strlen(path) < sizeof a.sun_path);
	strcpy(a.sun_path, path);
	strcpy(s->path, path);
	s->fault = fault;
	s->asked_fd = -1;
	pthread_mutex_init(&s->mu, NULL);
	unlink(path);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(s->listener, (struct sockaddr *)&a, sizeof a) == 0);
	CHECK(listen(s->listener, 64) == 0);
	CHECK(pthread_create(&s->thread, NULL, accept_thread, s) == 0);
	return s;
}

void server_fault(struct server *s, enum fault fault)
{
	s->fault = fault;
}

unsigned server_requests(struct server *s)
{
	return s->requests;
}

unsigned server_prompts(struct server *s)
{
	return s->prompts;
}

void server_stop(struct server *s)
{
	unlink(s->path);
	shutdown(s->listener, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->listener);
	for (unsigned i = 0; i < MAX_CONNS; i++) {
		if (s->conns[i].fd == 0)
			continue;
		shutdown(s->conns[i].fd, SHUT_RDWR);
		pthread_join(s->conns[i].thread, NULL);
		close(s->conns[i].fd);
	}
	pthread_mutex_destroy(&s->mu);
	free(s);
}
