"""Exported authenticators (RFC 9261) with evidence in them (draft-fossati-seat-expat-03), ahead of
any other application data."""

import hashlib
import hmac
import os
import struct

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

import evidence
import tls13
from evidence import Refused, spki_of
from tls13 import CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, FINISHED, Reader, extensions, vec

CLIENT_CERTIFICATE_REQUEST = 17
SIGNATURE_ALGORITHMS, CMW_ATTESTATION = 13, 0xFF00


def message(typ, body):
    return bytes([typ]) + vec(3, body)


class Exchange:
    def __init__(self, c, p, credential):
        self.c, self.p, self.credential = c, p, credential
        self.data = b""

    def run(self):
        """The client asks first."""
        for attester in ("server", "client"):
            if attester in self.p.attests:
                self.answer() if attester == self.p.role else self.ask()

    def exporter(self, label, context, n):
        return self.c.export(self.c.exporter_secret, label, context, n)

    def read(self, *types):
        while len(self.data) < 4 or len(self.data) < 4 + int.from_bytes(self.data[1:4], "big"):
            self.data += self.c.read_data()
        n = 4 + int.from_bytes(self.data[1:4], "big")
        m, self.data = self.data[:n], self.data[n:]
        if m[0] not in types:
            raise Refused("message %d, want %s" % (m[0], types), 10)
        return m

    def hash(self, *parts):
        return hashlib.new(self.c.hash, b"".join(parts)).digest()

    def keys(self, who):
        size = hashlib.new(self.c.hash).digest_size
        return [self.exporter(b"EXPORTER-%s authenticator %s" % (who.encode(), what), b"", size) for what in (b"handshake context", b"finished key")]

    def binding(self, spki, context):
        return self.hash(spki, self.exporter(b"Attestation", context, 32))

    def ask(self):
        who = self.p.other()
        context = os.urandom(32)
        schemes = vec(2, b"".join(s.to_bytes(2, "big") for s in tls13.SIGNATURES))
        typ = CLIENT_CERTIFICATE_REQUEST if self.p.role == "client" else CERTIFICATE_REQUEST
        request = message(typ, vec(1, context) + extensions([(SIGNATURE_ALGORITHMS, schemes), (CMW_ATTESTATION, b"")]))
        self.c.record(tls13.DATA, request)
        certificate = self.read(CERTIFICATE, FINISHED)
        if certificate[0] == FINISHED:
            raise Refused("the %s declines to authenticate" % who, 40)
        verify, finished = self.read(CERTIFICATE_VERIFY), self.read(FINISHED)
        handshake, key = self.keys(who)

        r = Reader(certificate[4:])
        if r.vec(1) != context:
            raise Refused("the authenticator is of another request", 47)
        entries = Reader(r.vec(3))
        cert = x509.load_der_x509_certificate(entries.vec(3))
        ext = entries.extensions()
        with open(evidence.certs("ca.pem"), "rb") as f:
            evidence.verify_certificate(cert, x509.load_pem_x509_certificate(f.read()))
        r = Reader(verify[4:])
        scheme, sig = r.uint(2), r.vec(2)
        try:
            tls13.verify(cert.public_key(), scheme, sig, self.to_sign(handshake, request, certificate))
        except InvalidSignature:
            raise Refused("CertificateVerify does not verify", 51)
        if not hmac.compare_digest(finished[4:], hmac.new(key, self.hash(handshake, request, certificate, verify), self.c.hash).digest()):
            raise Refused("Finished does not verify", 51)
        if CMW_ATTESTATION not in ext:
            raise Refused("there is no evidence", 40)
        cmw = Reader(ext[CMW_ATTESTATION]).vec(2)
        binding = self.binding(spki_of(cert.public_key()), context)
        evidence.verify_bound(cmw, binding.ljust(64, b"\0"))

    def to_sign(self, handshake, request, certificate):
        return b"\x20" * 64 + b"Exported Authenticator\0" + self.hash(handshake, request, certificate)

    def answer(self):
        p = self.p
        request = self.read(CLIENT_CERTIFICATE_REQUEST if p.role == "server" else CERTIFICATE_REQUEST)
        r = Reader(request[4:])
        context = r.vec(1)
        ext = r.extensions()
        if ext.get(CMW_ATTESTATION) != b"":
            raise Refused("the request does not ask for attestation", 109)
        cert, key = self.credential(p)
        handshake, finished_key = self.keys(p.role)
        spki = spki_of(key.public_key())
        if p.wrong == "expat-wrong-key":
            spki = spki_of(evidence.load_key("peer-tee.key").public_key())
        data = self.binding(spki, b"another" if p.wrong == "expat-other-context" else context).ljust(64, b"\0")
        cmw = evidence.make_own(data) if p.own else evidence.make_report(data, "tdx-unknown" if p.wrong == "expat-wrong-measurement" else "tdx")
        if p.wrong == "expat-malformed":
            cmw = b"\xff" + cmw
        pairs = [] if p.wrong == "expat-no-evidence" else [(CMW_ATTESTATION, vec(2, cmw))]
        entry = vec(3, cert.public_bytes(serialization.Encoding.DER)) + extensions(pairs)
        certificate = message(CERTIFICATE, vec(1, context) + vec(3, entry))
        scheme, sig = tls13.sign(key, self.to_sign(handshake, request, certificate))
        if p.wrong == "expat-bad-signature":
            sig = tls13.sign(key, b"something else")[1]
        verify = message(CERTIFICATE_VERIFY, struct.pack("!H", scheme) + vec(2, sig))
        if p.wrong == "expat-bad-finished":
            finished_key = bytes([finished_key[0] ^ 1]) + finished_key[1:]
        finished = message(FINISHED, hmac.new(finished_key, self.hash(handshake, request, certificate, verify), self.c.hash).digest())
        if p.wrong == "expat-refusal":
            # Finished alone, over a Certificate without entries that is not sent (RFC 9261, section 5.2).
            empty = message(CERTIFICATE, vec(1, context) + vec(3, b""))
            finished = message(FINISHED, hmac.new(finished_key, self.hash(handshake, request, empty), self.c.hash).digest())
            self.c.record(tls13.DATA, finished)
            return
        self.c.record(tls13.DATA, certificate + verify + finished)
