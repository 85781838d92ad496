/* One end of a case, on OpenSSL 3. The contract is in ../CONTRACT.md.
 *
 * OpenSSL sends an extension in Certificate only if the same extension came in
 * ClientHello or CertificateRequest, which attestation_evidence does not: so it verifies
 * evidence and results in both roles, and presents evidence after the handshake alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include "peer.h"

enum { UNSUPPORTED = 127 };
enum { EVIDENCE = 0xFFA0, EVIDENCE_REQUEST, EVIDENCE_PROPOSAL, RESULTS_REQUEST, RESULTS_PROPOSAL };
enum { NONCE = 64 };

static int is_server;
static exchange x;

/* What the case asks for. */
static struct {
	const char *cert; /* suffix of the server's files */
	const char *suites, *groups;
	int client_cert;	/* the client shows a certificate */
	int evidence, results;	/* the fork presents these, and they are to be verified */
	int draft08;
	int fails;		/* the handshake is not to succeed */
} want = {.cert = ""};

static struct {
	unsigned char nonce[NONCE];
	unsigned char transcript[1 << 17]; /* ClientHello...ServerHello */
	size_t transcript_n;
	int complete; /* the transcript is */
	int verified;
} state;

static const char *cert_file(const char *who, const char *suffix, const char *ending)
{
	char name[128];
	snprintf(name, sizeof name, "%s%s%s", who, suffix, ending);
	return in_certs(name, "");
}

/* choose reads the case, and returns 0 if it is none of ours. */
static int choose(const char *id)
{
	if (!strcmp(id, "base") || !strcmp(id, "base.ask"))
		return 1;
	if (!strcmp(id, "refuse.no-evidence"))
		return want.fails = 1;
	if (!strcmp(id, "base.client-cert"))
		return want.client_cert = 1;
	static const char *suites[][2] = {{"aes128", "TLS_AES_128_GCM_SHA256"}, {"aes256", "TLS_AES_256_GCM_SHA384"}, {"chacha20", "TLS_CHACHA20_POLY1305_SHA256"}};
	static const char *groups[][2] = {{"x25519", "X25519"}, {"p256", "P-256"}, {"p384", "P-384"}, {"p521", "P-521"}};
	/* As a client it sends a share of the first, which Go does not know. */
	const char *retry = is_server ? "P-256" : "X448:P-256";
	for (int i = 0; i < 3; i++)
		if (!strncmp(id, "base.suite.", 11) && !strcmp(id + 11, suites[i][0]))
			return want.suites = suites[i][1], 1;
	for (int i = 0; i < 4; i++)
		if (!strncmp(id, "base.group.", 11) && !strcmp(id + 11, groups[i][0]))
			return want.groups = groups[i][1], 1;
	if (!strcmp(id, "base.hrr"))
		return want.groups = retry, 1;
	static const char *keys[] = {"p384", "rsa", "ed25519", "large"};
	static const char *suffixes[] = {"-p384", "-rsa", "-ed25519", "-large"};
	for (int i = 0; i < 4; i++)
		if (!strncmp(id, "base.cert.", 10) && !strcmp(id + 10, keys[i]))
			return want.cert = suffixes[i], 1;
	if (exchange_case(&x, id)) {
		if (x.aes256)
			want.suites = suites[1][1];
		/* atls serve that has its clients attest wants their certificates in the handshake as well. */
		want.client_cert = !is_server && x.client_attests;
		return 1;
	}
	if (!strcmp(id, is_server ? "combined.client" : "combined.server")) {
		want.evidence = 1;
		*(is_server ? &x.client_attests : &x.server_attests) = 1;
		return 1;
	}
	/* Who attests is the fork. */
	char mine[64], *p = mine;
	snprintf(mine, sizeof mine, "%s.x509.", is_server ? "client" : "server");
	if (!strncmp(id, "attest.", 7))
		want.evidence = 1, id += 7;
	else if (!strncmp(id, "passport.", 9))
		want.results = 1, id += 9;
	else
		return 0;
	if (strncmp(id, mine, strlen(p)))
		return 0;
	id += strlen(p);
	const char *variant = strchr(id, '.');
	size_t n = variant ? (size_t)(variant - id) : strlen(id);
	if (n == 7 && !strncmp(id, "draft08", 7))
		want.draft08 = 1;
	else if (n != 8 || strncmp(id, "hardened", 8))
		return 0;
	if (variant) {
		if (!strcmp(variant, ".hrr"))
			want.groups = retry;
		else if (!strcmp(variant, ".aes256"))
			want.suites = suites[1][1];
		else if (!strcmp(variant, ".mismatch"))
			want.fails = 1;
		else
			return 0;
	}
	return 1;
}

static void on_keylog(const SSL *ssl, const char *line)
{
	(void)ssl;
	keep(line);
}

/* on_message keeps ClientHello...ServerHello; after a HelloRetryRequest the first
 * ClientHello is replaced by its hash (RFC 8446, section 4.4.1). */
static void on_message(int write, int version, int type, const void *buf, size_t n, SSL *ssl, void *arg)
{
	static const unsigned char retry[] = {0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
					      0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C};
	const unsigned char *m = buf;
	(void)write, (void)version, (void)arg;
	if (type != SSL3_RT_HANDSHAKE || state.complete || n < 38 || (m[0] != 1 && m[0] != 2))
		return;
	if (m[0] == 2 && !memcmp(m + 6, retry, 32)) {
		/* The suite is behind the session id. */
		const EVP_MD *md = m[38 + 1 + m[38] + 1] == 2 ? EVP_sha384() : EVP_sha256();
		unsigned char h[EVP_MAX_MD_SIZE];
		unsigned int k;
		EVP_Digest(state.transcript, state.transcript_n, h, &k, md, NULL);
		memcpy(state.transcript, (unsigned char[]){254, 0, 0, k}, 4);
		memcpy(state.transcript + 4, h, k);
		state.transcript_n = 4 + k;
	} else if (m[0] == 2)
		state.complete = 1;
	if (state.transcript_n + n > sizeof state.transcript)
		quit(1, "the hellos are too long");
	memcpy(state.transcript + state.transcript_n, m, n);
	state.transcript_n += n;
}

/* binder computes the channel binder from the two key shares. */
static void binder(SSL *ssl, unsigned char out[NONCE])
{
	EVP_PKEY *mine = NULL, *theirs = NULL;
	if (!SSL_get_tmp_key(ssl, &mine) || !SSL_get_peer_tmp_key(ssl, &theirs))
		quit(1, "there are no key shares");
	unsigned char shared[256], hs[EVP_MAX_MD_SIZE], hash[EVP_MAX_MD_SIZE];
	size_t n = sizeof shared;
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(mine, NULL);
	if (EVP_PKEY_derive_init(c) != 1 || EVP_PKEY_derive_set_peer(c, theirs) != 1 || EVP_PKEY_derive(c, shared, &n) != 1)
		quit(1, "key agreement");
	const EVP_MD *md = SSL_CIPHER_get_handshake_digest(SSL_get_current_cipher(ssl));
	handshake_secret(md, (bytes){shared, n}, hs);
	EVP_Digest(state.transcript, state.transcript_n, hash, NULL, md, NULL);
	channel_binder(md, hs, (bytes){hash, EVP_MD_get_size(md)}, (bytes){state.nonce, NONCE}, out);

	unsigned char random[32];
	char line[512], *p = line;
	SSL_get_client_random(ssl, random, sizeof random);
	p += sprintf(p, "HANDSHAKE_SECRET ");
	for (int i = 0; i < 32; i++)
		p += sprintf(p, "%02x", random[i]);
	*p++ = ' ';
	for (int i = 0; i < EVP_MD_get_size(md); i++)
		p += sprintf(p, "%02x", hs[i]);
	keep(line);
}

/* evidence_type writes EvidenceType: beside a certificate, a media type. */
static size_t evidence_type(unsigned char *out)
{
	size_t n = strlen(TSM_TYPE);
	memcpy(out, (unsigned char[]){1, 1, 0, n}, 4);
	memcpy(out + 4, TSM_TYPE, n);
	return 4 + n;
}

static size_t verifier_id(unsigned char *out)
{
	size_t n = strlen(VERIFIER_ID);
	memcpy(out, (unsigned char[]){0, n}, 2);
	memcpy(out + 2, VERIFIER_ID, n);
	return 2 + n;
}

/* on_add makes the extensions of ClientHello and EncryptedExtensions. */
static int on_add(SSL *ssl, unsigned type, unsigned context, const unsigned char **out, size_t *n, X509 *x, size_t i, int *alert, void *arg)
{
	static unsigned char buf[512];
	unsigned char *p = buf;
	size_t k;
	(void)ssl, (void)x, (void)i, (void)alert, (void)arg;
	int hello = context & SSL_EXT_CLIENT_HELLO;
	switch (type) {
	case EVIDENCE_REQUEST:
		if (!hello || !want.evidence)
			return 0;
		k = evidence_type(p + 1);
		*p = k;
		p += 1 + k;
		*p++ = NONCE;
		memcpy(p, state.nonce, NONCE);
		p += NONCE;
		break;
	case EVIDENCE_PROPOSAL:
		if (hello || !want.evidence)
			return 0;
		p += evidence_type(p);
		*p++ = NONCE;
		memcpy(p, state.nonce, NONCE);
		p += NONCE;
		break;
	case RESULTS_REQUEST:
		if (!hello || !want.results)
			return 0;
		k = verifier_id(p + 1);
		*p = k;
		p += 1 + k;
		break;
	case RESULTS_PROPOSAL:
		if (hello || !want.results)
			return 0;
		p += verifier_id(p);
		break;
	default:
		return 0;
	}
	*out = buf;
	*n = p - buf;
	return 1;
}

/* contains reports whether an offer, a list with one byte of length, has an element. */
static int contains(const unsigned char *in, size_t n, const unsigned char *e, size_t k)
{
	for (size_t i = 1; i + k <= n; i++)
		if (!memcmp(in + i, e, k))
			return 1;
	return 0;
}

/* on_parse reads what the fork offers, selects and presents. */
static int on_parse(SSL *ssl, unsigned type, unsigned context, const unsigned char *in, size_t n, X509 *x, size_t i, int *alert, void *arg)
{
	unsigned char buf[512];
	size_t k;
	(void)arg;
	*alert = SSL_AD_ILLEGAL_PARAMETER;
	switch (type) {
	case EVIDENCE_PROPOSAL:
	case RESULTS_PROPOSAL: /* offered in ClientHello */
		k = type == EVIDENCE_PROPOSAL ? evidence_type(buf) : verifier_id(buf);
		if ((type == EVIDENCE_PROPOSAL ? want.evidence : want.results) && !contains(in, n, buf, k)) {
			*alert = type == EVIDENCE_PROPOSAL ? 224 : 225;
			return 0;
		}
		return 1;
	case EVIDENCE_REQUEST:
	case RESULTS_REQUEST: /* selected in EncryptedExtensions */
		if (context & SSL_EXT_CLIENT_HELLO)
			return 1;
		k = type == EVIDENCE_REQUEST ? evidence_type(buf) : verifier_id(buf);
		return n == k && !memcmp(in, buf, k);
	}
	/* attestation_evidence, in Certificate */
	if (i != 0 || !(want.evidence || want.results))
		return 0;
	unsigned char *spki = NULL;
	int spki_n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &spki);
	const char *wrong;
	if (want.evidence) {
		unsigned char b[NONCE], data[REPORT_DATA] = {0};
		binder(ssl, b);
		if (want.draft08)
			memcpy(data, b, NONCE);
		else
			hardened(is_server ? 1 : 2, (bytes){b, NONCE}, (bytes){spki, spki_n}, data);
		wrong = verify_tdx((bytes){in, n}, data);
	} else
		wrong = verify_result((bytes){in, n}, (bytes){spki, spki_n}, !want.draft08);
	if (wrong) {
		fprintf(stderr, "the fork's evidence: %s\n", wrong);
		*alert = SSL_AD_BAD_CERTIFICATE;
		return 0;
	}
	state.verified = 1;
	return 1;
}

/* on_chain is called when all of Certificate has been read: without evidence there is
 * no going on. */
static int on_chain(X509_STORE_CTX *ctx, void *arg)
{
	(void)arg;
	if ((want.evidence || want.results) && !state.verified) {
		X509_STORE_CTX_set_error(ctx, X509_V_ERR_APPLICATION_VERIFICATION);
		return 0;
	}
	return X509_verify_cert(ctx);
}

static SSL_CTX *context(void)
{
	SSL_CTX *c = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
	SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION);
	SSL_CTX_set_keylog_callback(c, on_keylog);
	SSL_CTX_set_msg_callback(c, on_message);
	SSL_CTX_set_cert_verify_callback(c, on_chain, NULL);
	if (SSL_CTX_load_verify_file(c, in_certs("ca.pem", "")) != 1 ||
	    (want.suites && SSL_CTX_set_ciphersuites(c, want.suites) != 1) ||
	    (want.groups && SSL_CTX_set1_groups_list(c, want.groups) != 1))
		quit(1, "configuration");
	const char *who = is_server ? "server" : "client", *suffix = is_server ? want.cert : "";
	if (is_server || want.client_cert)
		if (SSL_CTX_use_certificate_chain_file(c, cert_file(who, suffix, ".pem")) != 1 ||
		    SSL_CTX_use_PrivateKey_file(c, cert_file(who, suffix, ".key"), SSL_FILETYPE_PEM) != 1)
			quit(1, "certificate");
	int attested = want.evidence || want.results;
	if (x.server_attests || x.client_attests)
		SSL_CTX_set_num_tickets(c, 0);
	if (!is_server)
		SSL_CTX_set_verify(c, SSL_VERIFY_PEER, NULL);
	else if (want.client_cert || attested)
		SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (attested) {
		const unsigned hello = SSL_EXT_TLS1_3_ONLY | SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_3_ENCRYPTED_EXTENSIONS;
		SSL_CTX_set_num_tickets(c, 0);
		for (unsigned t = EVIDENCE; t <= RESULTS_PROPOSAL; t++)
			if (SSL_CTX_add_custom_ext(c, t, t == EVIDENCE ? SSL_EXT_TLS1_3_ONLY | SSL_EXT_TLS1_3_CERTIFICATE : hello,
						   on_add, NULL, NULL, on_parse, NULL) != 1)
				quit(1, "custom extension %#x", t);
	}
	return c;
}

static void on_export(void *conn, const char *label, bytes context, unsigned char *out, size_t n)
{
	if (SSL_export_keying_material(conn, out, n, label, strlen(label), context.p, context.n, 1) != 1)
		quit(1, "exporter");
}

static void on_write(void *conn, bytes b)
{
	if (SSL_write(conn, b.p, b.n) != (int)b.n)
		quit(1, "write");
}

static void on_read(void *conn, unsigned char *out, size_t n)
{
	while (n) {
		int k = SSL_read(conn, out, n);
		if (k <= 0)
			quit(1, "read");
		out += k;
		n -= k;
	}
}

static void echo(SSL *ssl)
{
	char buf[4096];
	int n;
	while ((n = SSL_read(ssl, buf, sizeof buf)) > 0)
		if (SSL_write(ssl, buf, n) != n)
			quit(1, "write");
	if (SSL_get_error(ssl, n) != SSL_ERROR_ZERO_RETURN)
		quit(1, "read");
}

static void ask(SSL *ssl)
{
	const char line[] = "hello from OpenSSL\n";
	char buf[sizeof line];
	size_t n = 0;
	if (SSL_write(ssl, line, sizeof line - 1) <= 0)
		quit(1, "write");
	while (n < sizeof line - 1) {
		int k = SSL_read(ssl, buf + n, sizeof line - 1 - n);
		if (k <= 0)
			quit(1, "read");
		n += k;
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "--appraise"))
		return appraise(argv[2]);
	read_environment();
	x.is_server = is_server = !strcmp(role, "server");
	if (!choose(case_id))
		return UNSUPPORTED;
	RAND_bytes(state.nonce, NONCE);
	SSL *ssl = SSL_new(context());
	SSL_set_fd(ssl, connection(address, is_server));
	if (!is_server) {
		SSL_set_tlsext_host_name(ssl, "localhost");
		SSL_set1_host(ssl, "localhost");
	}
	int ok = is_server ? SSL_accept(ssl) : SSL_connect(ssl);
	if (want.fails) {
		if (ok == 1)
			quit(1, "the handshake succeeded");
		ERR_print_errors_fp(stderr);
		return 0;
	}
	if (ok != 1)
		quit(1, "the handshake failed");
	if (x.server_attests || x.client_attests) {
		x.md = SSL_CIPHER_get_handshake_digest(SSL_get_current_cipher(ssl));
		x.conn = ssl;
		x.export = on_export;
		x.write = on_write;
		x.read = on_read;
		const char *wrong = exchange_run(&x);
		if (wrong)
			quit(1, "the exchange: %s", wrong);
		ERR_clear_error();
	}
	if (is_server)
		echo(ssl);
	else
		ask(ssl);
	SSL_shutdown(ssl);
	return 0;
}
