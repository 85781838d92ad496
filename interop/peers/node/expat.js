'use strict';
// Exported authenticators (RFC 9261) with evidence in them (draft-fossati-seat-expat-03), ahead of
// any other application data.

const crypto = require('crypto');
const fs = require('fs');
const evidence = require('./evidence');

const CERTIFICATE = 11, CERTIFICATE_REQUEST = 13, CERTIFICATE_VERIFY = 15, CLIENT_CERTIFICATE_REQUEST = 17, FINISHED = 20;
const SIGNATURE_ALGORITHMS = 13, CMW_ATTESTATION = 0xFF00, ECDSA_P256_SHA256 = 0x0403;

function uint(size, n) {
  const b = Buffer.alloc(size);
  b.writeUIntBE(n, 0, size);
  return b;
}

const vec = (size, ...parts) => {
  const b = Buffer.concat(parts);
  return Buffer.concat([uint(size, b.length), b]);
};
const message = (type, ...parts) => Buffer.concat([uint(1, type), vec(3, ...parts)]);
const extension = (type, data) => Buffer.concat([uint(2, type), vec(2, data)]);

class Reader {
  constructor(b) { this.b = b; }

  take(n) {
    if (n > this.b.length) throw new Error('a message is cut off');
    const out = this.b.subarray(0, n);
    this.b = this.b.subarray(n);
    return out;
  }

  uint(size) { return this.take(size).readUIntBE(0, size); }
  vec(size) { return this.take(this.uint(size)); }

  extensions() {
    const list = new Reader(this.vec(2));
    const out = new Map();
    while (list.b.length) out.set(list.uint(2), list.vec(2));
    return out;
  }
}

class Exchange {
  // stream has read(n), write(b) and the TLS socket.
  constructor(stream, plan) {
    Object.assign(this, { stream, plan });
    this.hashName = stream.socket.getCipher().name.endsWith('SHA384') ? 'sha384' : 'sha256';
  }

  async run() {
    for (const attester of ['server', 'client']) { // the client asks first
      if (!this.plan.attests.includes(attester)) continue;
      await (attester === this.plan.role ? this.answer() : this.ask());
    }
  }

  hash(...parts) { return crypto.createHash(this.hashName).update(Buffer.concat(parts)).digest(); }
  hmac(key, b) { return crypto.createHmac(this.hashName, key).update(b).digest(); }
  exporter(label, context, n) { return this.stream.socket.exportKeyingMaterial(n, label, context); }

  keys(who) {
    const size = this.hash().length;
    return ['handshake context', 'finished key'].map((what) => this.exporter(`EXPORTER-${who} authenticator ${what}`, Buffer.alloc(0), size));
  }

  // binding is Hash(SPKI ‖ exported), padded with zeros to be report data.
  binding(key, context) {
    const spki = key.export({ type: 'spki', format: 'der' });
    return Buffer.concat([this.hash(spki, this.exporter('Attestation', context, 32)), Buffer.alloc(64)]).subarray(0, 64);
  }

  toSign(...parts) { return Buffer.concat([Buffer.alloc(64, 0x20), Buffer.from('Exported Authenticator\0'), this.hash(...parts)]); }

  async read(type) {
    const header = await this.stream.read(4);
    if (header[0] !== type) throw new Error(`message ${header[0]}, want ${type}`);
    return Buffer.concat([header, await this.stream.read(header.readUIntBE(1, 3))]);
  }

  async ask() {
    const context = crypto.randomBytes(32);
    const type = this.plan.role === 'client' ? CLIENT_CERTIFICATE_REQUEST : CERTIFICATE_REQUEST;
    const schemes = extension(SIGNATURE_ALGORITHMS, vec(2, uint(2, ECDSA_P256_SHA256)));
    const request = message(type, vec(1, context), vec(2, schemes, extension(CMW_ATTESTATION, Buffer.alloc(0))));
    this.stream.write(request);
    const certificate = await this.read(CERTIFICATE);
    const verify = await this.read(CERTIFICATE_VERIFY);
    const finished = await this.read(FINISHED);
    const [handshake, key] = this.keys(this.plan.role === 'client' ? 'server' : 'client');

    const r = new Reader(certificate.subarray(4));
    if (!r.vec(1).equals(context)) throw new Error('the authenticator is of another request');
    const entries = new Reader(r.vec(3));
    const cert = new crypto.X509Certificate(entries.vec(3));
    const ext = entries.extensions();
    const ca = new crypto.X509Certificate(fs.readFileSync(evidence.certs('ca.pem')));
    if (!cert.checkIssued(ca) || !cert.verify(ca.publicKey)) throw new Error('the certificate in the authenticator is not acceptable');
    const v = new Reader(verify.subarray(4));
    if (v.uint(2) !== ECDSA_P256_SHA256 || !crypto.verify('sha256', this.toSign(handshake, request, certificate), cert.publicKey, v.vec(2))) {
      throw new Error('CertificateVerify does not verify');
    }
    if (!this.hmac(key, this.hash(handshake, request, certificate, verify)).equals(finished.subarray(4))) throw new Error('Finished does not verify');
    if (!ext.has(CMW_ATTESTATION)) throw new Error('there is no evidence');
    evidence.verify(new Reader(ext.get(CMW_ATTESTATION)).vec(2), this.binding(cert.publicKey, context));
  }

  async answer() {
    const { role, own } = this.plan;
    const request = await this.read(role === 'server' ? CLIENT_CERTIFICATE_REQUEST : CERTIFICATE_REQUEST);
    const r = new Reader(request.subarray(4));
    const context = r.vec(1);
    const asked = r.extensions().get(CMW_ATTESTATION);
    if (!asked || asked.length) throw new Error('the request does not ask for attestation');
    const cert = new crypto.X509Certificate(fs.readFileSync(evidence.certs(role + '.pem')));
    const [handshake, key] = this.keys(role);
    const cmw = await evidence.make(this.binding(cert.publicKey, context), own);
    const certificate = message(CERTIFICATE, vec(1, context), vec(3, vec(3, cert.raw), vec(2, extension(CMW_ATTESTATION, vec(2, cmw)))));
    const signature = crypto.sign('sha256', this.toSign(handshake, request, certificate), fs.readFileSync(evidence.certs(role + '.key')));
    const verify = message(CERTIFICATE_VERIFY, uint(2, ECDSA_P256_SHA256), vec(2, signature));
    const finished = message(FINISHED, this.hmac(key, this.hash(handshake, request, certificate, verify)));
    this.stream.write(Buffer.concat([certificate, verify, finished]));
  }
}

module.exports = { Exchange };
