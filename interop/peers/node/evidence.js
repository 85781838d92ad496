'use strict';
// Evidence, made and verified with Node's own crypto. See ../CONTRACT.md.

const crypto = require('crypto');
const fs = require('fs');
const net = require('net');

const TSM = 'application/vnd.veraison.tsm-report+cbor';
const OWN = 'application/vnd.atls.interop-own';

const certs = (name) => process.env.ATLS_INTEROP_CERTS + '/' + name;
const sha256 = (b) => crypto.createHash('sha256').update(b).digest();

// CBOR (RFC 8949): only what reports and records have.

function head(major, n) {
  if (n < 24) return Buffer.from([(major << 5) | n]);
  if (n < 256) return Buffer.from([(major << 5) | 24, n]);
  return Buffer.from([(major << 5) | 25, n >> 8, n & 255]);
}

function encode(v) {
  if (typeof v === 'number') return head(0, v);
  if (Buffer.isBuffer(v)) return Buffer.concat([head(2, v.length), v]);
  if (typeof v === 'string') return Buffer.concat([head(3, Buffer.byteLength(v)), Buffer.from(v)]);
  if (Array.isArray(v)) return Buffer.concat([head(4, v.length), ...v.map(encode)]);
  const entries = Object.entries(v);
  return Buffer.concat([head(5, entries.length), ...entries.flatMap(([k, x]) => [encode(k), encode(x)])]);
}

function decode(b) {
  let at = 0;
  const take = (n) => {
    if (at + n > b.length) throw new Error('CBOR is cut off');
    at += n;
    return b.subarray(at - n, at);
  };
  const value = (depth) => {
    if (depth > 8) throw new Error('CBOR is too deep');
    const first = take(1)[0];
    const major = first >> 5;
    const low = first & 31;
    if (low > 26) throw new Error('CBOR of a length that is not read');
    const n = low < 24 ? low : take(1 << (low - 24)).reduce((x, y) => x * 256 + y, 0);
    switch (major) {
      case 0: return n;
      case 2: return take(n);
      case 3: return take(n).toString();
      case 4: return Array.from({ length: n }, () => value(depth + 1));
      case 5: return new Map(Array.from({ length: n }, () => [value(depth + 1), value(depth + 1)]));
    }
    throw new Error('CBOR of a type that is not read');
  };
  const v = value(0);
  if (at !== b.length) throw new Error('bytes behind the CBOR');
  return v;
}

function p256(xy) {
  const jwk = { kty: 'EC', crv: 'P-256', x: xy.subarray(0, 32).toString('base64url'), y: xy.subarray(32).toString('base64url') };
  return crypto.createPublicKey({ key: jwk, format: 'jwk' });
}

function verifyRaw(key, data, signature, what) {
  if (!crypto.verify('sha256', data, { key, dsaEncoding: 'ieee-p1363' }, signature)) throw new Error(what + ' does not verify');
}

// verifyQuote checks a TDX quote of version 4 up to the root, and returns its REPORTDATA.
function verifyQuote(b) {
  if (b.length < 1300 || b.readUInt16LE(0) !== 4 || b.readUInt32LE(4) !== 0x81) throw new Error('not a TDX quote of version 4');
  const signed = b.subarray(0, 632);
  const signature = b.subarray(636, 700);
  const key = b.subarray(700, 764);
  const report = b.subarray(770, 1154);
  const n = b.readUInt16LE(1218);
  const auth = b.subarray(1220, 1220 + n);
  const chain = b.subarray(1220 + n + 6).toString().match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g).map((c) => new crypto.X509Certificate(c));
  verifyRaw(p256(key), signed, signature, 'the quote');
  if (!report.subarray(320, 352).equals(sha256(Buffer.concat([key, auth])))) throw new Error('the enclave does not vouch for the attestation key');
  verifyRaw(chain[0].publicKey, report, b.subarray(1154, 1218), "the enclave's report");
  const root = new crypto.X509Certificate(fs.readFileSync(certs('tdx-root.pem')));
  [...chain, root].forEach((c, i, all) => {
    const issuer = all[Math.min(i + 1, all.length - 1)];
    if (!c.verify(issuer.publicKey) || Date.parse(c.validTo) < Date.now()) throw new Error('a certificate of the platform does not verify');
  });
  return signed.subarray(568, 632);
}

// verify checks evidence that has to carry this report data.
function verify(cmw, want) {
  const [type, value, ind = 4] = decode(cmw);
  if (type !== TSM || !(ind & 4)) throw new Error('not a TSM report in a CMW record');
  const report = decode(value);
  if (report.get('provider') !== 'tdx_guest') throw new Error('the provider is not tdx_guest');
  if (!verifyQuote(report.get('outblob')).equals(want)) throw new Error('report data is of another connection, request or key');
}

// quote has the hardware sign.
function quote(data) {
  const [host, port] = process.env.ATLS_INTEROP_TEE.split(':');
  return new Promise((resolve, reject) => {
    let answer = '';
    const s = net.connect(Number(port), host, () => s.write('tdx ' + data.toString('hex') + '\n'));
    s.on('data', (b) => { answer += b; });
    s.on('end', () => resolve(Buffer.from(answer.trim(), 'base64')));
    s.on('error', reject);
  });
}

async function make(data, own) {
  if (own) {
    const signature = crypto.sign('sha256', data, fs.readFileSync(certs('peer-tee.key')));
    return encode([OWN, Buffer.concat([data, signature]), 4]);
  }
  return encode([TSM, encode({ outblob: await quote(data), provider: 'tdx_guest' }), 4]);
}

module.exports = { OWN, certs, decode, make, verify };
