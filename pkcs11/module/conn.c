#define _GNU_SOURCE /* struct ucred, explicit_bzero */
#include "conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "rpc.h"

/* The newest version of the protocol; see mechanism.c for what differs. */
#define PROTOCOL_VERSION 2

/* Options of a frame are read and dropped; nobody sends any in a reply. */
#define MAX_OPTIONS 4096

/* The rest of a frame whose first byte is here comes within this time, in ms. */
#define FRAME_MS 5000

/* A body is read in steps, so that its length alone allocates nothing much. */
#define READ_STEP (64u << 10)

/* One call under way. It lives on the stack of the thread that waits. */
struct pending {
	uint32_t number;
	bool done;
	struct buffer reply;
	pthread_cond_t wake;
	struct pending *next;
};

struct conn {
	int fd;
	unsigned epoch;
	uint8_t version;
	long long deadline; /* of the handshake, in ms; 0 when that is over */

	pthread_mutex_t writing; /* one frame at a time */

	pthread_mutex_t mu; /* guards all below; never held during I/O */
	unsigned refs;
	uint32_t number;
	bool reading; /* somebody reads for all */
	bool dead;
	struct pending *waiting;
};

static long long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ready waits for the peer, but not beyond a deadline; 0 is none. */
static bool ready(struct conn *c, short events, long long deadline)
{
	for (;;) {
		long long left = deadline == 0 ? -1 : deadline - now_ms();
		struct pollfd p = {.fd = c->fd, .events = events};
		if (deadline != 0 && left <= 0)
			return false;
		int n = poll(&p, 1, (int)left);
		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
	}
}

/* again tells whether a system call is worth repeating, after a wait. */
static bool again(struct conn *c, short events, long long deadline)
{
	if (errno == EINTR)
		return true;
	return (errno == EAGAIN || errno == EWOULDBLOCK) && ready(c, events, deadline);
}

static bool send_all(struct conn *c, const uint8_t *p, size_t n)
{
	while (n > 0) {
		/* A daemon that is gone is an error, not a signal to the host. */
		ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && again(c, POLLOUT, c->deadline))
			continue;
		if (sent <= 0)
			return false;
		p += sent;
		n -= (size_t)sent;
	}
	return true;
}

static bool receive_all(struct conn *c, uint8_t *p, size_t n, long long deadline)
{
	while (n > 0) {
		/* Without a deadline it may take long: then one call, not two. */
		ssize_t got = recv(c->fd, p, n, deadline != 0 ? MSG_DONTWAIT : 0);
		if (got < 0 && again(c, POLLIN, deadline))
			continue;
		if (got <= 0)
			return false;
		p += got;
		n -= (size_t)got;
	}
	return true;
}

static bool receive_frame(struct conn *c, uint32_t *number, struct buffer *body)
{
	uint8_t header[FRAME_HEADER], dropped[256];

	/* A reply may take as long as a person takes. Once it has begun, its
	 * rest does not. */
	if (!receive_all(c, header, 1, c->deadline))
		return false;
	long long deadline = now_ms() + FRAME_MS;
	if (!receive_all(c, header + 1, sizeof header - 1, deadline))
		return false;
	struct reader r = {.p = header, .left = sizeof header};
	*number = get_u32(&r);
	size_t options = get_u32(&r), left = get_u32(&r);
	if (options > MAX_OPTIONS || left > WIRE_MAX_BODY)
		return false;
	while (options > 0) {
		size_t n = options < sizeof dropped ? options : sizeof dropped;
		if (!receive_all(c, dropped, n, deadline))
			return false;
		options -= n;
	}
	while (left > 0) {
		size_t n = left < READ_STEP ? left : READ_STEP;
		uint8_t *p = buffer_extend(body, n);
		if (p == NULL || !receive_all(c, p, n, deadline))
			return false;
		left -= n;
	}
	return true;
}

static void kill_locked(struct conn *c)
{
	c->dead = true;
	shutdown(c->fd, SHUT_RDWR); /* wakes the one who reads */
	for (struct pending *p = c->waiting; p != NULL; p = p->next)
		pthread_cond_signal(&p->wake);
}

void conn_shut(struct conn *c)
{
	pthread_mutex_lock(&c->mu);
	kill_locked(c);
	pthread_mutex_unlock(&c->mu);
}

void conn_ref(struct conn *c)
{
	pthread_mutex_lock(&c->mu);
	c->refs++;
	pthread_mutex_unlock(&c->mu);
}

void conn_unref(struct conn *c)
{
	pthread_mutex_lock(&c->mu);
	bool last = --c->refs == 0;
	pthread_mutex_unlock(&c->mu);
	if (!last)
		return;
	close(c->fd);
	pthread_mutex_destroy(&c->mu);
	pthread_mutex_destroy(&c->writing);
	free(c);
}

bool conn_alive(struct conn *c)
{
	pthread_mutex_lock(&c->mu);
	if (!c->dead && c->waiting == NULL) {
		/* Nothing is due, so whatever comes is the end, or nonsense. */
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		if (poll(&p, 1, 0) > 0)
			kill_locked(c);
	}
	bool alive = !c->dead;
	pthread_mutex_unlock(&c->mu);
	return alive;
}

uint8_t conn_version(const struct conn *c)
{
	return c->version;
}

unsigned conn_epoch(const struct conn *c)
{
	return c->epoch;
}

/* read_one_locked reads one frame and gives it to the call it answers. */
static void read_one_locked(struct conn *c)
{
	struct buffer body = {0};
	uint32_t number = 0;

	c->reading = true;
	pthread_mutex_unlock(&c->mu);
	bool ok = receive_frame(c, &number, &body);
	pthread_mutex_lock(&c->mu);
	c->reading = false;

	struct pending *p = NULL;
	if (ok)
		for (p = c->waiting; p != NULL; p = p->next)
			if (p->number == number && !p->done)
				break;
	if (p == NULL) { /* broken, or an answer that nobody waits for */
		buffer_free(&body);
		kill_locked(c);
		return;
	}
	p->reply = body;
	p->done = true;
	pthread_cond_signal(&p->wake);
}

static void forget_locked(struct conn *c, struct pending *me)
{
	struct pending **at = &c->waiting;
	while (*at != me)
		at = &(*at)->next;
	*at = me->next;
	if (c->reading)
		return;
	for (struct pending *p = c->waiting; p != NULL; p = p->next)
		if (!p->done) { /* the next one to read for all */
			pthread_cond_signal(&p->wake);
			return;
		}
}

CK_RV conn_call(struct conn *c, struct buffer *request, struct buffer *reply)
{
	if (request->failed || request->len < FRAME_HEADER)
		return CKR_HOST_MEMORY;
	if (request->len - FRAME_HEADER > WIRE_MAX_BODY)
		return CKR_DATA_LEN_RANGE;

	struct pending me = {0};
	if (pthread_cond_init(&me.wake, NULL) != 0)
		return CKR_HOST_MEMORY;

	pthread_mutex_lock(&c->mu);
	if (c->dead) {
		pthread_mutex_unlock(&c->mu);
		pthread_cond_destroy(&me.wake);
		return CKR_DEVICE_REMOVED;
	}
	if (++c->number == 0) /* p11-kit takes 0 for no frame at all */
		c->number = 1;
	me.number = c->number;
	me.next = c->waiting;
	c->waiting = &me;
	pthread_mutex_unlock(&c->mu);

	store_u32(request->data, me.number);
	store_u32(request->data + 4, 0);
	store_u32(request->data + 8, (uint32_t)(request->len - FRAME_HEADER));
	pthread_mutex_lock(&c->writing);
	bool sent = send_all(c, request->data, request->len);
	pthread_mutex_unlock(&c->writing);

	pthread_mutex_lock(&c->mu);
	if (!sent)
		kill_locked(c);
	while (!me.done && !c->dead) {
		if (c->reading)
			pthread_cond_wait(&me.wake, &c->mu);
		else
			read_one_locked(c);
	}
	forget_locked(c, &me);
	pthread_mutex_unlock(&c->mu);
	pthread_cond_destroy(&me.wake);
	if (!me.done)
		return CKR_DEVICE_REMOVED;
	*reply = me.reply;
	return CKR_OK;
}

/*
 * connect_to returns a connected socket, or -1. The peer must be the user or
 * root: a PIN goes to nobody else, whatever path the environment names.
 */
static int connect_to(const char *path, bool *late)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (path[0] != '/' || strlen(path) >= sizeof address.sun_path)
		return -1;
	memcpy(address.sun_path, path, strlen(path));

	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && fd <= 2) {
		/* The host has closed its standard streams and may open them
		 * again, or write to them regardless. */
		int above = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		close(fd);
		fd = above;
	}
	if (fd < 0)
		return -1;

	/* Bounds connect(), which waits while a daemon's queue is full. */
	struct timeval wait = {.tv_sec = CONNECT_MS / 1000}, forever = {0};
	struct ucred peer;
	socklen_t size = sizeof peer;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	int failed;
	do
		failed = connect(fd, (struct sockaddr *)&address, sizeof address);
	while (failed != 0 && errno == EINTR);
	*late = failed != 0 && errno == EAGAIN;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof forever);
	if (failed != 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
	    (peer.uid != geteuid() && peer.uid != 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

static struct conn *conn_new(int fd, unsigned epoch)
{
	struct conn *c = calloc(1, sizeof *c);
	if (c == NULL)
		return NULL;
	if (pthread_mutex_init(&c->mu, NULL) != 0) {
		free(c);
		return NULL;
	}
	if (pthread_mutex_init(&c->writing, NULL) != 0) {
		pthread_mutex_destroy(&c->mu);
		free(c);
		return NULL;
	}
	c->fd = fd;
	c->epoch = epoch;
	c->refs = 1;
	return c;
}

/* greet agrees on a version and begins the application that we are. */
static bool greet(struct conn *c, uint8_t offer)
{
	uint8_t answer;
	if (!send_all(c, &offer, 1) || !receive_all(c, &answer, 1, c->deadline) || answer > offer)
		return false;
	c->version = answer;
	return rpc_hello(c) == CKR_OK;
}

struct conn *conn_open(const char *path, unsigned epoch, bool *late)
{
	/* Servers older than the negotiation hang up on any offer but 0. */
	static const uint8_t offers[] = {PROTOCOL_VERSION, 0};
	long long deadline = now_ms() + CONNECT_MS;

	for (size_t i = 0; i < sizeof offers; i++) {
		int fd = connect_to(path, late);
		if (fd < 0)
			return NULL;
		struct conn *c = conn_new(fd, epoch);
		if (c == NULL) {
			close(fd);
			return NULL;
		}
		c->deadline = deadline;
		if (greet(c, offers[i])) {
			c->deadline = 0;
			return c;
		}
		conn_unref(c);
		*late = now_ms() >= deadline;
		if (*late)
			return NULL;
	}
	return NULL;
}
