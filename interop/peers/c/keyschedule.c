#include <string.h>
#include <openssl/hmac.h>
#include "peer.h"

static void hmac(const EVP_MD *md, const unsigned char *key, bytes in, unsigned char *out)
{
	unsigned int n;
	if (!HMAC(md, key, EVP_MD_get_size(md), in.p, in.n, out, &n))
		quit(1, "HMAC");
}

static void digest(const EVP_MD *md, bytes in, unsigned char *out)
{
	if (!EVP_Digest(in.p, in.n, out, NULL, md, NULL))
		quit(1, "digest");
}

void expand_label(const EVP_MD *md, const unsigned char *secret, const char *label, bytes context, unsigned char *out, size_t n)
{
	unsigned char info[600], block[EVP_MAX_MD_SIZE];
	size_t size = EVP_MD_get_size(md), have = 0, l = strlen(label);
	for (unsigned char i = 1; have < n; i++) {
		unsigned char *p = info;
		if (i > 1) {
			memcpy(p, block, size);
			p += size;
		}
		*p++ = n >> 8;
		*p++ = n;
		*p++ = 6 + l;
		memcpy(p, "tls13 ", 6);
		memcpy(p + 6, label, l);
		p += 6 + l;
		*p++ = context.n;
		if (context.n)
			memcpy(p, context.p, context.n);
		p += context.n;
		*p++ = i;
		hmac(md, secret, (bytes){info, p - info}, block);
		size_t take = n - have < size ? n - have : size;
		memcpy(out + have, block, take);
		have += take;
	}
}

/* derive is Derive-Secret over no messages. */
static void derive(const EVP_MD *md, const unsigned char *secret, const char *label, unsigned char *out)
{
	unsigned char empty[EVP_MAX_MD_SIZE];
	digest(md, (bytes){NULL, 0}, empty);
	expand_label(md, secret, label, (bytes){empty, EVP_MD_get_size(md)}, out, EVP_MD_get_size(md));
}

void export_from(const EVP_MD *md, const unsigned char *secret, const char *label, bytes context, unsigned char *out, size_t n)
{
	unsigned char derived[EVP_MAX_MD_SIZE], hash[EVP_MAX_MD_SIZE];
	derive(md, secret, label, derived);
	digest(md, context, hash);
	expand_label(md, derived, "exporter", (bytes){hash, EVP_MD_get_size(md)}, out, n);
}

void handshake_secret(const EVP_MD *md, bytes shared, unsigned char *out)
{
	unsigned char zeros[EVP_MAX_MD_SIZE] = {0}, early[EVP_MAX_MD_SIZE], derived[EVP_MAX_MD_SIZE];
	hmac(md, zeros, (bytes){zeros, EVP_MD_get_size(md)}, early);
	derive(md, early, "derived", derived);
	hmac(md, derived, shared, out);
}

void channel_binder(const EVP_MD *md, const unsigned char *hs, bytes transcript_hash, bytes nonce, unsigned char *out)
{
	unsigned char secret[EVP_MAX_MD_SIZE];
	expand_label(md, hs, "h exp master", transcript_hash, secret, EVP_MD_get_size(md));
	export_from(md, secret, "attestation-binder", nonce, out, nonce.n);
}

void hardened(int role, bytes binder, bytes spki, unsigned char out[REPORT_DATA])
{
	unsigned char in[16 + 2 + 255 + 32] = "atls hardened v1", *p = in + 16;
	*p++ = 0;
	*p++ = role;
	memcpy(p, binder.p, binder.n);
	p += binder.n;
	digest(EVP_sha256(), spki, p);
	digest(EVP_sha512(), (bytes){in, p + 32 - in}, out);
}
