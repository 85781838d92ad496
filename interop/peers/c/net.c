/* The environment of the contract, and sockets. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <openssl/err.h>
#include "peer.h"

const char *case_id, *role, *address, *certs, *logs;

void read_environment(void)
{
	case_id = getenv("ATLS_INTEROP_CASE");
	role = getenv("ATLS_INTEROP_ROLE");
	address = getenv("ATLS_INTEROP_ADDRESS");
	certs = getenv("ATLS_INTEROP_CERTS");
	logs = getenv("ATLS_INTEROP_LOGS");
	if (!case_id || !role || !address || !certs || !logs)
		quit(1, "the environment is not that of the contract");
	signal(SIGPIPE, SIG_IGN);
}

void quit(int status, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	ERR_print_errors_fp(stderr);
	exit(status);
}

const char *in_certs(const char *name, const char *suffix)
{
	static char path[8][512];
	static int i;
	i = (i + 1) % 8;
	snprintf(path[i], sizeof path[i], "%s/%s%s", certs, name, suffix);
	return path[i];
}

void keep(const char *line)
{
	char path[512];
	snprintf(path, sizeof path, "%s/keys.log", logs);
	FILE *f = fopen(path, "a");
	if (!f)
		quit(1, "cannot write %s", path);
	fprintf(f, "%s\n", line);
	fclose(f);
}

int connection(const char *address, int is_server)
{
	char host[64];
	const char *colon = strrchr(address, ':');
	if (!colon || (size_t)(colon - address) >= sizeof host)
		quit(1, "bad address %s", address);
	snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
	inet_pton(AF_INET, host, &a.sin_addr);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	if (is_server) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 1))
			quit(1, "cannot listen on %s", address);
		fd = accept(fd, NULL, NULL);
	} else if (connect(fd, (struct sockaddr *)&a, sizeof a))
		quit(1, "cannot connect to %s", address);
	struct timeval t = {.tv_sec = 10};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	return fd;
}
