/* What the files of this peer share. */
#ifndef PEER_H
#define PEER_H

#include <stddef.h>
#include <stdint.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

#define MAX_SECRET 64
#define REPORT_DATA 64

/* Bytes, on the heap or borrowed. */
typedef struct {
	const unsigned char *p;
	size_t n;
} bytes;

/* quit ends the process with a message. */
void quit(int status, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
/* in_certs returns the path of a file in the folder of certificates. */
const char *in_certs(const char *name, const char *suffix);

/* keyschedule.c: RFC 8446, section 7.1, and the Handshake Exporter of
 * draft-fossati-tls-attestation-08. */
void expand_label(const EVP_MD *md, const unsigned char *secret, const char *label, bytes context, unsigned char *out, size_t n);
void export_from(const EVP_MD *md, const unsigned char *secret, const char *label, bytes context, unsigned char *out, size_t n);
/* handshake_secret mixes an (EC)DHE secret in. */
void handshake_secret(const EVP_MD *md, bytes shared, unsigned char *out);
void channel_binder(const EVP_MD *md, const unsigned char *hs, bytes transcript_hash, bytes nonce, unsigned char *out);
/* hardened computes the report data of the hardened rule; role is 1 for client, 2 for server. */
void hardened(int role, bytes binder, bytes spki, unsigned char out[REPORT_DATA]);

/* evidence.c. Each returns NULL, or what is wrong. */
const char *verify_tdx(bytes cmw, const unsigned char want[REPORT_DATA]);
const char *verify_result(bytes cmw, bytes spki, int bound);
/* cmw_own wraps evidence of the peer's own making over report data. */
bytes cmw_own(const unsigned char report_data[REPORT_DATA]);
/* appraise answers a request of the fork about such evidence, on standard input. */
int appraise(const char *key);

/* cmw_tdx has the hardware quote report data. */
bytes cmw_tdx(const unsigned char report_data[REPORT_DATA]);

/* expat.c: the exchange of authenticators. */
typedef struct {
	int is_server, server_attests, client_attests;
	int own;    /* this end's evidence is of its own making */
	int aes256; /* the case wants SHA-384 */
	const EVP_MD *md;
	void *conn;
	void (*export)(void *conn, const char *label, bytes context, unsigned char *out, size_t n);
	void (*write)(void *conn, bytes b);
	void (*read)(void *conn, unsigned char *out, size_t n); /* exactly n bytes */
} exchange;

/* exchange_case reads a case, and returns 0 if it is none of exchanges. is_server is set. */
int exchange_case(exchange *x, const char *id);
const char *exchange_run(exchange *x);

/* net.c */
int connection(const char *address, int is_server);
void read_environment(void);
extern const char *case_id, *role, *address, *certs, *logs;
/* keep adds a line to keys.log. */
void keep(const char *line);

#define TSM_TYPE "application/vnd.veraison.tsm-report+cbor"
#define OWN_TYPE "application/vnd.atls.interop-own"
#define VERIFIER_ID "https://softtee.invalid/insecure-verifier"

#endif
