/* One end of a case, on GnuTLS. The contract is in ../CONTRACT.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include "peer.h"

enum { UNSUPPORTED = 127 };

static int is_server;
static exchange x;

static struct {
	const char *cert, *priority;
	int client_cert, fails;
} want = {.cert = "", .priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3"};

#define ONLY "NORMAL:-VERS-ALL:+VERS-TLS1.3:"
#define GROUP(g) ONLY "-GROUP-ALL:+GROUP-" g
#define SUITE(s) ONLY "-CIPHER-ALL:+" s

/* choose reads the case, and returns 0 if it is none of ours. */
static int choose(const char *id)
{
	static const char *priorities[][2] = {
		{"base.suite.aes128", SUITE("AES-128-GCM")},
		{"base.suite.aes256", SUITE("AES-256-GCM")},
		{"base.suite.chacha20", SUITE("CHACHA20-POLY1305")},
		{"base.group.x25519", GROUP("X25519")},
		{"base.group.p256", GROUP("SECP256R1")},
		{"base.group.p384", GROUP("SECP384R1")},
		{"base.group.p521", GROUP("SECP521R1")},
	};
	for (size_t i = 0; i < sizeof priorities / sizeof *priorities; i++)
		if (!strcmp(id, priorities[i][0]))
			return want.priority = priorities[i][1], 1;
	if (!strcmp(id, "base") || !strcmp(id, "base.ask"))
		return 1;
	if (!strcmp(id, "base.hrr")) /* as a client it sends a share of a group that Go does not know */
		return want.priority = is_server ? GROUP("SECP256R1") : GROUP("FFDHE2048:+GROUP-SECP256R1"), 1;
	if (!strcmp(id, "refuse.no-evidence"))
		return want.fails = 1;
	if (!strcmp(id, "base.client-cert"))
		return want.client_cert = 1;
	static const char *keys[] = {"-p384", "-rsa", "-ed25519", "-large"};
	for (int i = 0; i < 4; i++)
		if (!strncmp(id, "base.cert.", 10) && !strcmp(id + 10, keys[i] + 1))
			return want.cert = keys[i], 1;
	if (!exchange_case(&x, id))
		return 0;
	if (x.aes256)
		want.priority = SUITE("AES-256-GCM");
	/* atls serve that has its clients attest wants their certificates in the handshake as well. */
	want.client_cert = !is_server && x.client_attests;
	return 1;
}

static void check(int r, const char *what)
{
	if (r < 0)
		quit(1, "%s: %s", what, gnutls_strerror(r));
}

static int on_keylog(gnutls_session_t s, const char *label, const gnutls_datum_t *secret)
{
	char line[512], *p = line;
	gnutls_datum_t client, server;
	gnutls_session_get_random(s, &client, &server);
	p += sprintf(p, "%s ", label);
	for (unsigned i = 0; i < client.size; i++)
		p += sprintf(p, "%02x", client.data[i]);
	*p++ = ' ';
	for (unsigned i = 0; i < secret->size; i++)
		p += sprintf(p, "%02x", secret->data[i]);
	keep(line);
	return 0;
}

static void on_export(void *conn, const char *label, bytes context, unsigned char *out, size_t n)
{
	check(gnutls_prf_rfc5705(conn, strlen(label), label, context.n, (const char *)context.p, n, (char *)out), "exporter");
}

static void on_write(void *conn, bytes b)
{
	while (b.n) {
		ssize_t k = gnutls_record_send(conn, b.p, b.n);
		check(k, "write");
		b.p += k, b.n -= k;
	}
}

/* receive goes on after what is not application data, such as tickets. */
static ssize_t receive(gnutls_session_t s, unsigned char *out, size_t n)
{
	ssize_t k;
	do
		k = gnutls_record_recv(s, out, n);
	while (k < 0 && !gnutls_error_is_fatal(k));
	return k;
}

static void on_read(void *conn, unsigned char *out, size_t n)
{
	while (n) {
		ssize_t k = receive(conn, out, n);
		if (k == 0)
			quit(1, "the other end closed");
		check(k, "read");
		out += k, n -= k;
	}
}

static void echo(gnutls_session_t s)
{
	unsigned char buf[4096];
	ssize_t n;
	while ((n = receive(s, buf, sizeof buf)) > 0)
		on_write(s, (bytes){buf, n});
	check(n, "read");
}

static void ask(gnutls_session_t s)
{
	static const char line[] = "hello from GnuTLS\n";
	unsigned char buf[sizeof line];
	on_write(s, (bytes){(const unsigned char *)line, sizeof line - 1});
	on_read(s, buf, sizeof line - 1);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("GnuTLS %s\n", gnutls_check_version(NULL));
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "--appraise"))
		return appraise(argv[2]);
	read_environment();
	x.is_server = is_server = !strcmp(role, "server");
	if (!choose(case_id))
		return UNSUPPORTED;
	gnutls_certificate_credentials_t creds;
	gnutls_session_t s;
	check(gnutls_certificate_allocate_credentials(&creds), "credentials");
	check(gnutls_certificate_set_x509_trust_file(creds, in_certs("ca.pem", ""), GNUTLS_X509_FMT_PEM), "ca.pem");
	if (is_server || want.client_cert) {
		char name[64];
		snprintf(name, sizeof name, "%s%s", is_server ? "server" : "client", is_server ? want.cert : "");
		check(gnutls_certificate_set_x509_key_file(creds, in_certs(name, ".pem"), in_certs(name, ".key"), GNUTLS_X509_FMT_PEM), "certificate");
	}
	int exchanges = x.server_attests || x.client_attests;
	check(gnutls_init(&s, (is_server ? GNUTLS_SERVER : GNUTLS_CLIENT) | (exchanges ? GNUTLS_NO_TICKETS : 0) | GNUTLS_KEY_SHARE_TOP), "session");
	const char *at;
	check(gnutls_priority_set_direct(s, want.priority, &at), "priorities");
	check(gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, creds), "credentials");
	gnutls_session_set_keylog_function(s, on_keylog);
	if (is_server) {
		gnutls_certificate_server_set_request(s, want.client_cert ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
		if (want.client_cert)
			gnutls_session_set_verify_cert(s, NULL, 0);
	} else {
		gnutls_server_name_set(s, GNUTLS_NAME_DNS, "localhost", 9);
		gnutls_session_set_verify_cert(s, "localhost", 0);
	}
	gnutls_handshake_set_timeout(s, 10000);
	gnutls_record_set_timeout(s, 10000);
	gnutls_handshake_set_max_packet_length(s, 1 << 18);
	int fd = connection(address, is_server); /* the next line is a macro, and evaluates it twice */
	gnutls_transport_set_int(s, fd);
	int r;
	do
		r = gnutls_handshake(s);
	while (r < 0 && !gnutls_error_is_fatal(r));
	if (want.fails) {
		if (r >= 0)
			quit(1, "the handshake succeeded");
		printf("%s\n", gnutls_strerror(r));
		return 0;
	}
	check(r, "handshake");
	if (exchanges) {
		x.md = gnutls_cipher_get(s) == GNUTLS_CIPHER_AES_256_GCM ? EVP_sha384() : EVP_sha256();
		x.conn = s;
		x.export = on_export;
		x.write = on_write;
		x.read = on_read;
		const char *wrong = exchange_run(&x);
		if (wrong)
			quit(1, "the exchange: %s", wrong);
	}
	if (is_server)
		echo(s);
	else
		ask(s);
	gnutls_bye(s, GNUTLS_SHUT_WR);
	return 0;
}
