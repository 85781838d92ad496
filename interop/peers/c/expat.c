/* Exported authenticators (RFC 9261) with evidence in them (draft-fossati-seat-expat-03),
 * ahead of any other application data; over any TLS stack that has an exporter. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include "peer.h"

enum { CERTIFICATE = 11, CERTIFICATE_REQUEST = 13, CERTIFICATE_VERIFY = 15, CLIENT_CERTIFICATE_REQUEST = 17, FINISHED = 20 };
enum { CONTEXT = 32, MAX_MESSAGE = 1 << 17, CMW_ATTESTATION = 0xFF00, ECDSA_P256_SHA256 = 0x0403 };

/* A message, with its header. */
typedef struct {
	unsigned char b[MAX_MESSAGE];
	size_t n;
} message;

static void put(message *m, size_t v, int size)
{
	while (size--)
		m->b[m->n++] = v >> 8 * size;
}

static void put_bytes(message *m, bytes b)
{
	if (m->n + b.n > MAX_MESSAGE)
		quit(1, "a message is too long");
	memcpy(m->b + m->n, b.p, b.n);
	m->n += b.n;
}

static void begin(message *m, int type)
{
	m->n = 0;
	put(m, type, 1);
	put(m, 0, 3);
}

/* end fills in the length. */
static bytes end(message *m)
{
	size_t n = m->n - 4;
	m->b[1] = n >> 16, m->b[2] = n >> 8, m->b[3] = n;
	return (bytes){m->b, m->n};
}

static bytes receive(exchange *x, message *m, int type)
{
	x->read(x->conn, m->b, 4);
	size_t n = m->b[1] << 16 | m->b[2] << 8 | m->b[3];
	if (m->b[0] != type || n > MAX_MESSAGE - 4)
		quit(1, "a message of type %d, want %d", m->b[0], type);
	x->read(x->conn, m->b + 4, n);
	m->n = 4 + n;
	return (bytes){m->b, m->n};
}

/* take removes a vector with a length of size bytes from the front of *in. */
static bytes take(bytes *in, int size)
{
	size_t n = 0;
	if (in->n < (size_t)size)
		quit(1, "a message is cut off");
	for (int i = 0; i < size; i++)
		n = n << 8 | in->p[i];
	if (in->n - size < n)
		quit(1, "a message is cut off");
	bytes out = {in->p + size, n};
	in->p += size + n;
	in->n -= size + n;
	return out;
}

/* find returns an extension; p is NULL if it is not there. */
static bytes find(bytes list, unsigned type)
{
	while (list.n >= 4) {
		unsigned t = list.p[0] << 8 | list.p[1];
		list.p += 2, list.n -= 2;
		bytes data = take(&list, 2);
		if (t == type)
			return data;
	}
	return (bytes){NULL, 0};
}

static size_t hash(exchange *x, unsigned char *out, int count, const bytes *parts)
{
	unsigned int n;
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	EVP_DigestInit(c, x->md);
	for (int i = 0; i < count; i++)
		EVP_DigestUpdate(c, parts[i].p, parts[i].n);
	EVP_DigestFinal(c, out, &n);
	EVP_MD_CTX_free(c);
	return n;
}

/* keys exports the handshake context and the Finished MAC key of who authenticates. */
static void keys(exchange *x, int server, unsigned char *context, unsigned char *finished)
{
	char label[64];
	snprintf(label, sizeof label, "EXPORTER-%s authenticator handshake context", server ? "server" : "client");
	x->export(x->conn, label, (bytes){NULL, 0}, context, EVP_MD_get_size(x->md));
	snprintf(label, sizeof label, "EXPORTER-%s authenticator finished key", server ? "server" : "client");
	x->export(x->conn, label, (bytes){NULL, 0}, finished, EVP_MD_get_size(x->md));
}

/* binding is Hash(SPKI || exported), padded with zeros to be report data. */
static void binding(exchange *x, X509 *cert, bytes context, unsigned char out[REPORT_DATA])
{
	unsigned char exported[32], *spki = NULL;
	x->export(x->conn, "Attestation", context, exported, sizeof exported);
	size_t n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &spki);
	memset(out, 0, REPORT_DATA);
	hash(x, out, 2, (bytes[]){{spki, n}, {exported, sizeof exported}});
}

/* to_sign is what CertificateVerify signs. */
static bytes to_sign(exchange *x, const unsigned char *context, bytes request, bytes certificate, unsigned char *out)
{
	memset(out, 0x20, 64);
	memcpy(out + 64, "Exported Authenticator", 23);
	size_t n = hash(x, out + 87, 3, (bytes[]){{context, EVP_MD_get_size(x->md)}, request, certificate});
	return (bytes){out, 87 + n};
}

static bytes finished_mac(exchange *x, const unsigned char *context, const unsigned char *key, bytes request, bytes certificate, bytes verify, unsigned char *out)
{
	unsigned char h[EVP_MAX_MD_SIZE];
	unsigned int n;
	size_t k = hash(x, h, 4, (bytes[]){{context, EVP_MD_get_size(x->md)}, request, certificate, verify});
	HMAC(x->md, key, EVP_MD_get_size(x->md), h, k, out, &n);
	return (bytes){out, n};
}

static int chain_ok(X509 *cert)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *c = X509_STORE_CTX_new();
	int ok = X509_STORE_load_file(store, in_certs("ca.pem", "")) == 1 && X509_STORE_CTX_init(c, store, cert, NULL) == 1 &&
		 X509_verify_cert(c) == 1;
	X509_STORE_CTX_free(c);
	X509_STORE_free(store);
	return ok;
}

/* ask requests an authenticator of the other end, and verifies it with its evidence. */
static const char *ask(exchange *x)
{
	static message request, certificate, verify, finished;
	unsigned char context[CONTEXT], handshake[EVP_MAX_MD_SIZE], key[EVP_MAX_MD_SIZE], buf[256], data[REPORT_DATA];
	RAND_bytes(context, CONTEXT);
	begin(&request, x->is_server ? CERTIFICATE_REQUEST : CLIENT_CERTIFICATE_REQUEST);
	put(&request, CONTEXT, 1);
	put_bytes(&request, (bytes){context, CONTEXT});
	put(&request, 8 + 4, 2);
	put(&request, 13, 2); /* signature_algorithms */
	put(&request, 4, 2);
	put(&request, 2, 2);
	put(&request, ECDSA_P256_SHA256, 2);
	put(&request, CMW_ATTESTATION, 2);
	put(&request, 0, 2);
	bytes r = end(&request);
	x->write(x->conn, r);
	bytes c = receive(x, &certificate, CERTIFICATE), v = receive(x, &verify, CERTIFICATE_VERIFY), f = receive(x, &finished, FINISHED);
	keys(x, !x->is_server, handshake, key);

	bytes in = {c.p + 4, c.n - 4}, echoed = take(&in, 1), entries = take(&in, 3), der = take(&entries, 3), ext = take(&entries, 2);
	if (echoed.n != CONTEXT || memcmp(echoed.p, context, CONTEXT))
		return "the authenticator is of another request";
	X509 *cert = d2i_X509(NULL, &der.p, der.n);
	if (!cert || !chain_ok(cert))
		return "the certificate in the authenticator is not acceptable";
	in = (bytes){v.p + 6, v.n - 6};
	bytes sig = take(&in, 2), signed_ = to_sign(x, handshake, r, c, buf);
	EVP_MD_CTX *m = EVP_MD_CTX_new();
	if ((v.p[4] << 8 | v.p[5]) != ECDSA_P256_SHA256 || EVP_DigestVerifyInit(m, NULL, EVP_sha256(), NULL, X509_get0_pubkey(cert)) != 1 ||
	    EVP_DigestVerify(m, sig.p, sig.n, signed_.p, signed_.n) != 1)
		return "CertificateVerify of the authenticator";
	bytes mac = finished_mac(x, handshake, key, r, c, v, buf);
	if (f.n - 4 != mac.n || CRYPTO_memcmp(f.p + 4, mac.p, mac.n))
		return "Finished of the authenticator";
	bytes cmw = find(ext, CMW_ATTESTATION);
	if (!cmw.p)
		return "there is no evidence in the authenticator";
	binding(x, cert, (bytes){context, CONTEXT}, data);
	return verify_tdx(take(&cmw, 2), data);
}

/* answer authenticates this end and attests. */
static const char *answer(exchange *x)
{
	static message request, certificate, verify, finished;
	unsigned char handshake[EVP_MAX_MD_SIZE], key[EVP_MAX_MD_SIZE], buf[256], sig[128], data[REPORT_DATA], *der = NULL;
	bytes r = receive(x, &request, x->is_server ? CLIENT_CERTIFICATE_REQUEST : CERTIFICATE_REQUEST);
	bytes in = {r.p + 4, r.n - 4}, context = take(&in, 1), asked = find(take(&in, 2), CMW_ATTESTATION);
	if (!asked.p || asked.n)
		return "the request does not ask for attestation";
	keys(x, x->is_server, handshake, key);

	const char *who = x->is_server ? "server" : "client";
	BIO *pem = BIO_new_file(in_certs(who, ".pem"), "r");
	X509 *cert = pem ? PEM_read_bio_X509(pem, NULL, NULL, NULL) : NULL;
	BIO *pem2 = BIO_new_file(in_certs(who, ".key"), "r");
	EVP_PKEY *private = pem2 ? PEM_read_bio_PrivateKey(pem2, NULL, NULL, NULL) : NULL;
	if (!cert || !private)
		return "there is no certificate to authenticate with";
	binding(x, cert, context, data);
	bytes cmw = x->own ? cmw_own(data) : cmw_tdx(data);
	size_t n = i2d_X509(cert, &der);
	begin(&certificate, CERTIFICATE);
	put(&certificate, context.n, 1);
	put_bytes(&certificate, context);
	put(&certificate, 3 + n + 2 + 4 + 2 + cmw.n, 3);
	put(&certificate, n, 3);
	put_bytes(&certificate, (bytes){der, n});
	put(&certificate, 4 + 2 + cmw.n, 2);
	put(&certificate, CMW_ATTESTATION, 2);
	put(&certificate, 2 + cmw.n, 2);
	put(&certificate, cmw.n, 2);
	put_bytes(&certificate, cmw);
	bytes c = end(&certificate), signed_ = to_sign(x, handshake, r, c, buf);
	size_t k = sizeof sig;
	EVP_MD_CTX *m = EVP_MD_CTX_new();
	if (EVP_DigestSignInit(m, NULL, EVP_sha256(), NULL, private) != 1 || EVP_DigestSign(m, sig, &k, signed_.p, signed_.n) != 1)
		return "cannot sign";
	begin(&verify, CERTIFICATE_VERIFY);
	put(&verify, ECDSA_P256_SHA256, 2);
	put(&verify, k, 2);
	put_bytes(&verify, (bytes){sig, k});
	bytes v = end(&verify);
	begin(&finished, FINISHED);
	put_bytes(&finished, finished_mac(x, handshake, key, r, c, v, buf));
	bytes f = end(&finished);
	x->write(x->conn, c);
	x->write(x->conn, v);
	x->write(x->conn, f);
	return NULL;
}

const char *exchange_run(exchange *x)
{
	const char *wrong = NULL;
	if (x->server_attests) /* the client asks first */
		wrong = x->is_server ? answer(x) : ask(x);
	if (!wrong && x->client_attests)
		wrong = x->is_server ? ask(x) : answer(x);
	return wrong;
}

int exchange_case(exchange *x, const char *id)
{
	static const char *names[] = {"server", "client", "both"};
	if (!strncmp(id, "expat.", 6))
		id += 6;
	else
		return 0;
	for (int i = 0; i < 3; i++) {
		size_t n = strlen(names[i]);
		if (strncmp(id, names[i], n) || (id[n] && id[n] != '.'))
			continue;
		x->server_attests = i != 1;
		x->client_attests = i != 0;
		if (!strcmp(id + n, ".aes256"))
			return x->aes256 = 1;
		if (!strcmp(id + n, ".own"))
			return x->own = x->is_server ? x->server_attests : x->client_attests;
		return id[n] == 0;
	}
	return 0;
}
