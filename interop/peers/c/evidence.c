#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include "peer.h"

/* take removes n bytes from the front of *in. */
static int take(bytes *in, size_t n, bytes *out)
{
	if (in->n < n)
		return 0;
	*out = (bytes){in->p, n};
	in->p += n;
	in->n -= n;
	return 1;
}

/* CBOR: major types, RFC 8949. Only definite lengths up to 32 bits are read. */
enum { CBOR_UINT = 0, CBOR_BYTES = 2, CBOR_TEXT = 3, CBOR_ARRAY = 4, CBOR_MAP = 5 };

static int cbor_head(bytes *in, int *major, size_t *value)
{
	bytes b;
	if (!take(in, 1, &b))
		return 0;
	*major = b.p[0] >> 5;
	unsigned low = b.p[0] & 31;
	if (low < 24) {
		*value = low;
		return 1;
	}
	if (low > 26 || !take(in, (size_t)1 << (low - 24), &b))
		return 0;
	*value = 0;
	for (size_t i = 0; i < b.n; i++)
		*value = *value << 8 | b.p[i];
	return 1;
}

static int cbor_string(bytes *in, int want, bytes *out)
{
	int major;
	size_t n;
	return cbor_head(in, &major, &n) && major == want && take(in, n, out);
}

/* cmw_record reads [type, value, ?ind] of RFC 9999. */
static int cmw_record(bytes in, bytes *type, bytes *value, size_t *ind)
{
	int major;
	size_t n;
	*ind = 0;
	if (!cbor_head(&in, &major, &n) || major != CBOR_ARRAY || n < 2 || n > 3 ||
	    !cbor_string(&in, CBOR_TEXT, type) || !cbor_string(&in, CBOR_BYTES, value))
		return 0;
	if (n == 3 && (!cbor_head(&in, &major, ind) || major != CBOR_UINT))
		return 0;
	return in.n == 0;
}

static int starts(bytes b, const char *s) { return b.n >= strlen(s) && !memcmp(b.p, s, strlen(s)); }
static int equals(bytes b, const char *s) { return b.n == strlen(s) && starts(b, s); }

static EVP_PKEY *p256(const unsigned char xy[64])
{
	unsigned char der[91] = {0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
				 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04};
	const unsigned char *p = der;
	memcpy(der + 27, xy, 64);
	return d2i_PUBKEY(NULL, &p, sizeof der);
}

/* verify_raw checks an ECDSA signature r || s over SHA-256. */
static int verify_raw(EVP_PKEY *key, bytes in, const unsigned char sig[64])
{
	ECDSA_SIG *s = ECDSA_SIG_new();
	ECDSA_SIG_set0(s, BN_bin2bn(sig, 32, NULL), BN_bin2bn(sig + 32, 32, NULL));
	unsigned char der[80], *p = der;
	int n = i2d_ECDSA_SIG(s, &p);
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	int ok = key && n > 0 && EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, key) == 1 &&
		 EVP_DigestVerify(c, der, n, in.p, in.n) == 1;
	EVP_MD_CTX_free(c);
	ECDSA_SIG_free(s);
	return ok;
}

/* Offsets of a TDX quote of version 4. */
enum { QUOTE_SIGNED = 632, QUOTE_REPORT_DATA = 568, QE_REPORT = 384, QE_REPORT_DATA = 320 };

/* verify_quote checks the quote's signature by the attestation key, that key by the
 * quoting enclave, the enclave by the platform's certificate, and that by the root. */
static const char *verify_quote(bytes quote)
{
	bytes in = quote, body, len, sig, key, head, report, qesig, auth;
	if (!take(&in, QUOTE_SIGNED, &body) || !take(&in, 4, &len) || !take(&in, 64, &sig) || !take(&in, 64, &key) ||
	    !take(&in, 6, &head) || !take(&in, QE_REPORT, &report) || !take(&in, 64, &qesig) || !take(&in, 2, &len) ||
	    !take(&in, len.p[0] | len.p[1] << 8, &auth) || !take(&in, 6, &head))
		return "quote is cut off";
	if (body.p[0] != 4 || body.p[4] != 0x81)
		return "not a TDX quote of version 4";
	if (!verify_raw(p256(key.p), body, sig.p))
		return "signature of the quote";
	unsigned char bound[32], both[64 + 1024];
	if (auth.n > 1024)
		return "authentication data is too long";
	memcpy(both, key.p, 64);
	memcpy(both + 64, auth.p, auth.n);
	EVP_Digest(both, 64 + auth.n, bound, NULL, EVP_sha256(), NULL);
	if (memcmp(report.p + QE_REPORT_DATA, bound, 32))
		return "the enclave does not vouch for the attestation key";
	BIO *pem = BIO_new_mem_buf(in.p, in.n);
	X509 *leaf = PEM_read_bio_X509(pem, NULL, NULL, NULL), *c;
	STACK_OF(X509) *rest = sk_X509_new_null();
	while ((c = PEM_read_bio_X509(pem, NULL, NULL, NULL)))
		sk_X509_push(rest, c);
	ERR_clear_error(); /* the end of the chain is no error, and must not be taken for one later */
	if (!leaf || !verify_raw(X509_get0_pubkey(leaf), report, qesig.p))
		return "signature of the enclave's report";
	X509_STORE *store = X509_STORE_new();
	X509_STORE_load_file(store, in_certs("tdx-root.pem", ""));
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	X509_STORE_CTX_init(ctx, store, leaf, rest);
	X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_IGNORE_CRITICAL);
	if (X509_verify_cert(ctx) != 1)
		return X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx));
	return NULL;
}

const char *verify_tdx(bytes cmw, const unsigned char want[REPORT_DATA])
{
	bytes type, in, key, value, quote = {NULL, 0};
	size_t ind, n;
	int major;
	if (!cmw_record(cmw, &type, &in, &ind) || !equals(type, TSM_TYPE) || !(ind == 0 || ind & 4))
		return "not a TSM report in a CMW record";
	if (!cbor_head(&in, &major, &n) || major != CBOR_MAP)
		return "the TSM report is no map";
	while (n--) {
		if (!cbor_string(&in, CBOR_TEXT, &key))
			return "a key of the TSM report";
		if (equals(key, "provider")) {
			if (!cbor_string(&in, CBOR_TEXT, &value) || !equals(value, "tdx_guest"))
				return "the provider is not tdx_guest";
		} else if (!cbor_string(&in, CBOR_BYTES, &value))
			return "a value of the TSM report";
		else if (equals(key, "outblob"))
			quote = value;
	}
	const char *wrong = verify_quote(quote);
	if (wrong)
		return wrong;
	if (memcmp(quote.p + QUOTE_REPORT_DATA, want, REPORT_DATA))
		return "report data is of another session, key or role";
	return NULL;
}

/* base64url decodes without padding; it returns the length, or 0. */
static size_t base64url(bytes in, unsigned char *out, size_t max)
{
	char *s = malloc(in.n + 4);
	size_t n = in.n;
	for (size_t i = 0; i < n; i++)
		s[i] = in.p[i] == '-' ? '+' : in.p[i] == '_' ? '/' : in.p[i];
	size_t pad = (4 - n % 4) % 4;
	memset(s + n, '=', pad);
	n += pad;
	int k = n / 4 * 3 <= max ? EVP_DecodeBlock(out, (unsigned char *)s, n) : -1;
	free(s);
	return k < 0 ? 0 : k - pad;
}

/* verify_result checks an EAR in a CMW: the verifier's signature, its lifetime, its
 * verdict, and, where bound is set, that it names the key. */
const char *verify_result(bytes cmw, bytes spki, int bound)
{
	bytes type, token;
	size_t ind;
	if (!cmw_record(cmw, &type, &token, &ind) || !starts(type, "application/eat+jwt") || !(ind & 8))
		return "not an EAT as a JWT, marked as attestation results, in a CMW record";
	const unsigned char *dot1 = memchr(token.p, '.', token.n), *dot2 = NULL;
	if (dot1)
		dot2 = memchr(dot1 + 1, '.', token.p + token.n - dot1 - 1);
	if (!dot2)
		return "not a JWT";
	unsigned char sig[128], claims[8192], name[512];
	bytes s = {dot2 + 1, token.p + token.n - dot2 - 1};
	if (base64url(s, sig, sizeof sig) != 64)
		return "signature of the result is not of ES256";
	BIO *pem = BIO_new_file(in_certs("verifier.pem", ""), "r");
	EVP_PKEY *key = pem ? PEM_read_bio_PUBKEY(pem, NULL, NULL, NULL) : NULL;
	if (!verify_raw(key, (bytes){token.p, dot2 - token.p}, sig))
		return "signature of the result";
	size_t n = base64url((bytes){dot1 + 1, dot2 - dot1 - 1}, claims, sizeof claims - 1);
	claims[n] = 0;
	const char *text = (char *)claims, *exp = strstr(text, "\"exp\":");
	if (!exp || strtoll(exp + 6, NULL, 10) < time(NULL))
		return "the result has expired";
	if (!strstr(text, "\"ear.status\":\"affirming\""))
		return "the result is not affirming";
	if (bound) {
		unsigned char b64[512];
		if (spki.n > 300)
			return "the key is too long";
		EVP_EncodeBlock(b64, spki.p, spki.n);
		size_t k = 0;
		for (size_t i = 0; b64[i] && b64[i] != '='; i++)
			name[k++] = b64[i] == '+' ? '-' : b64[i] == '/' ? '_' : b64[i];
		name[k] = 0;
		if (!strstr(text, (char *)name))
			return "the result is about another key";
	}
	return NULL;
}

static size_t cbor_put(unsigned char *out, int major, size_t n)
{
	if (n < 24) {
		out[0] = major << 5 | n;
		return 1;
	}
	if (n < 256) {
		out[0] = major << 5 | 24;
		out[1] = n;
		return 2;
	}
	out[0] = major << 5 | 25;
	out[1] = n >> 8;
	out[2] = n;
	return 3;
}

/* cmw writes the record [type, value, evidence]. */
static bytes cmw(unsigned char *out, const char *type, bytes value)
{
	unsigned char *p = out;
	*p++ = CBOR_ARRAY << 5 | 3;
	p += cbor_put(p, CBOR_TEXT, strlen(type));
	memcpy(p, type, strlen(type));
	p += strlen(type);
	p += cbor_put(p, CBOR_BYTES, value.n);
	memcpy(p, value.p, value.n);
	p += value.n;
	*p++ = 4;
	return (bytes){out, p - out};
}

static EVP_PKEY *private_key(const char *path)
{
	BIO *pem = BIO_new_file(path, "r");
	EVP_PKEY *key = pem ? PEM_read_bio_PrivateKey(pem, NULL, NULL, NULL) : NULL;
	if (!key)
		quit(1, "no key in %s", path);
	return key;
}

/* hardware asks the TEE for a quote, and returns its length. */
static size_t hardware(const unsigned char report_data[REPORT_DATA], unsigned char *out, size_t max)
{
	static char line[1 << 16];
	FILE *tee = fdopen(connection(getenv("ATLS_INTEROP_TEE"), 0), "r+");
	fputs("tdx ", tee);
	for (int i = 0; i < REPORT_DATA; i++)
		fprintf(tee, "%02x", report_data[i]);
	fputs("\n", tee);
	fflush(tee);
	if (!fgets(line, sizeof line, tee))
		quit(1, "the TEE does not answer");
	fclose(tee);
	size_t n = strcspn(line, "\n"), pad = 0;
	while (n && line[n - 1 - pad] == '=')
		pad++;
	int k = n / 4 * 3 <= max ? EVP_DecodeBlock(out, (unsigned char *)line, n) : -1;
	if (k <= 0)
		quit(1, "the TEE answers %.100s", line);
	return k - pad;
}

bytes cmw_tdx(const unsigned char report_data[REPORT_DATA])
{
	static unsigned char out[1 << 16];
	unsigned char quote[1 << 14], report[(1 << 14) + 64], *p = report;
	size_t n = hardware(report_data, quote, sizeof quote);
	*p++ = CBOR_MAP << 5 | 2; /* {"outblob": quote, "provider": "tdx_guest"} */
	p += cbor_put(p, CBOR_TEXT, 7);
	memcpy(p, "outblob", 7);
	p += 7;
	p += cbor_put(p, CBOR_BYTES, n);
	memcpy(p, quote, n);
	p += n;
	p += cbor_put(p, CBOR_TEXT, 8);
	memcpy(p, "provider", 8);
	p += 8;
	p += cbor_put(p, CBOR_TEXT, 9);
	memcpy(p, "tdx_guest", 9);
	p += 9;
	return cmw(out, TSM_TYPE, (bytes){report, p - report});
}

bytes cmw_own(const unsigned char report_data[REPORT_DATA])
{
	static unsigned char out[512];
	unsigned char sig[80], value[REPORT_DATA + sizeof sig];
	size_t n = sizeof sig;
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	if (EVP_DigestSignInit(c, NULL, EVP_sha256(), NULL, private_key(in_certs("peer-tee.key", ""))) != 1 ||
	    EVP_DigestSign(c, sig, &n, report_data, REPORT_DATA) != 1)
		quit(1, "cannot sign evidence");
	memcpy(value, report_data, REPORT_DATA);
	memcpy(value + REPORT_DATA, sig, n);
	return cmw(out, OWN_TYPE, (bytes){value, REPORT_DATA + n});
}

/* member returns a base64 member of a flat JSON object, decoded. */
static bytes member(const char *json, const char *name)
{
	char want[64];
	snprintf(want, sizeof want, "\"%s\":\"", name);
	const char *p = strstr(json, want), *end = p ? strchr(p + strlen(want), '"') : NULL;
	if (!end)
		return (bytes){NULL, 0};
	p += strlen(want);
	unsigned char *out = malloc(end - p + 4);
	int n = EVP_DecodeBlock(out, (const unsigned char *)p, end - p);
	while (n > 0 && end > p && end[-1] == '=')
		end--, n--;
	return (bytes){out, n > 0 ? n : 0};
}

int appraise(const char *key)
{
	static char json[1 << 20];
	json[fread(json, 1, sizeof json - 1, stdin)] = 0;
	bytes want = member(json, "report_data"), cmw = member(json, "cmw"), type, value;
	size_t ind;
	const char *class = "malformed", *reason = NULL;
	if (want.n != REPORT_DATA || !cmw_record(cmw, &type, &value, &ind) || !equals(type, OWN_TYPE) || value.n <= REPORT_DATA)
		reason = "not evidence of this type";
	else {
		EVP_MD_CTX *c = EVP_MD_CTX_new();
		if (EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, private_key(key)) != 1 ||
		    EVP_DigestVerify(c, value.p + REPORT_DATA, value.n - REPORT_DATA, value.p, REPORT_DATA) != 1)
			class = "signature", reason = "it is not signed by the key of this TEE";
		else if (memcmp(value.p, want.p, REPORT_DATA))
			class = "binding", reason = "report data is of another session, key or role";
	}
	if (reason)
		printf("{\"ok\":false,\"class\":\"%s\",\"reason\":\"%s\"}\n", class, reason);
	else
		printf("{\"ok\":true}\n");
	return 0;
}
