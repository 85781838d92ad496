"""A connection of TLS 1.3 on Scapy: its key shares, its key schedule, its record ciphers,
its hellos. Scapy's automata leave no room for a server that sends its own extensions, for
keys other than RSA or for entries that are no certificate, so the order of messages is here."""

import hashlib
import os
import socket
import struct
import warnings

warnings.filterwarnings("ignore")

from scapy.config import conf

conf.ipv6_enabled = False

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from scapy.layers.tls.crypto.cipher_aead import AEADTagError
from scapy.layers.tls.crypto.groups import _tls_named_groups_generate, _tls_named_groups_import, _tls_named_groups_pubbytes
from scapy.layers.tls.crypto.suites import _tls_cipher_suites_cls
from scapy.layers.tls.extensions import TLS_Ext_ServerName, TLS_Ext_SupportedGroups, TLS_Ext_SupportedVersion_CH, ServerName, TLS_Ext_SignatureAlgorithms, TLS_Ext_Unknown
from scapy.layers.tls.handshake import TLS13ClientHello, TLS13HelloRetryRequest, TLS13ServerHello
from scapy.layers.tls.keyexchange_tls13 import KeyShareEntry, TLS_Ext_KeyShare_CH, TLS_Ext_KeyShare_HRR, TLS_Ext_KeyShare_SH
from scapy.layers.tls.extensions import TLS_Ext_SupportedVersion_SH
from scapy.layers.tls.session import readConnState, tlsSession, writeConnState

CLIENT_HELLO, SERVER_HELLO, TICKET, ENCRYPTED_EXTENSIONS, CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, FINISHED, KEY_UPDATE = 1, 2, 4, 8, 11, 13, 15, 20, 24
CCS, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23

RETRY = hashlib.sha256(b"HelloRetryRequest").digest()

SIGNATURES = [0x0403, 0x0503, 0x0804, 0x0807]


class Alerted(Exception):
    """The other end sent an alert."""

    def __init__(self, code):
        super().__init__("alert %d" % code)
        self.code = code


class Closed(Exception):
    """The other end is gone."""


def vec(n, b):
    return len(b).to_bytes(n, "big") + b


class Reader:
    """Takes bytes off the front."""

    def __init__(self, b):
        self.b = b

    def take(self, n):
        if len(self.b) < n:
            raise ValueError("message is cut off")
        out, self.b = self.b[:n], self.b[n:]
        return out

    def uint(self, n):
        return int.from_bytes(self.take(n), "big")

    def vec(self, n):
        return self.take(self.uint(n))

    def extensions(self):
        out, r = {}, Reader(self.vec(2))
        while r.b:
            typ = r.uint(2)
            out[typ] = r.vec(2)
        return out


def extensions(pairs):
    return vec(2, b"".join(struct.pack("!H", t) + vec(2, d) for t, d in pairs))


class Conn:
    def __init__(self, sock, role):
        sock.settimeout(10)
        self.sock, self.role = sock, role
        self.s = tlsSession(connection_end=role)
        self.s.tls_version = self.s.advertised_tls_version = 0x0304
        self.reading = self.writing = None     # connection states of Scapy
        self.transcript = []
        self.hello_transcript = None           # ClientHello...ServerHello
        self.handshake_bytes = b""
        self.data = b""
        self.shares = {}
        self.secrets = {}

    # Records.

    def record(self, typ, body):
        if self.writing is None:
            self.sock.sendall(struct.pack("!BHH", typ, 0x0301 if not self.transcript else 0x0303, len(body)) + body)
            return
        for i in range(0, max(len(body), 1), 1 << 14):
            inner = body[i:i + (1 << 14)] + bytes([typ])
            header = struct.pack("!BHH", DATA, 0x0303, len(inner) + 16)
            sealed = self.writing.cipher.auth_encrypt(inner, header, struct.pack("!Q", self.writing.seq_num))
            self.writing.seq_num += 1
            self.sock.sendall(header + sealed)

    def recv_exactly(self, n):
        b = b""
        while len(b) < n:
            k = self.sock.recv(n - len(b))
            if not k:
                raise Closed
            b += k
        return b

    def read_record(self):
        while True:
            header = self.recv_exactly(5)
            typ, _, n = struct.unpack("!BHH", header)
            body = self.recv_exactly(n)
            if typ == CCS:
                continue
            if typ == DATA and self.reading is not None:
                try:
                    inner = self.reading.cipher.auth_decrypt(header, body, struct.pack("!Q", self.reading.seq_num))
                except AEADTagError:
                    raise ValueError("a record does not decrypt")
                self.reading.seq_num += 1
                if isinstance(inner, tuple):
                    inner = inner[0]
                inner = inner.rstrip(b"\0")
                typ, body = inner[-1], inner[:-1]
            if typ == ALERT:
                if body[1] == 0:
                    raise Closed
                raise Alerted(body[1])
            return typ, body

    def alert(self, code):
        self.record(ALERT, bytes([2, code]))

    # Handshake messages.

    def send(self, typ, body):
        m = bytes([typ]) + vec(3, body)
        self.send_raw(m)

    def send_raw(self, m):
        self.record(HANDSHAKE, m)
        self.transcript.append(m)

    def receive(self, *types):
        """Returns the type and the body of the next handshake message."""
        while len(self.handshake_bytes) < 4 or len(self.handshake_bytes) < 4 + int.from_bytes(self.handshake_bytes[1:4], "big"):
            typ, body = self.read_record()
            if typ != HANDSHAKE:
                raise ValueError("record of type %d during the handshake" % typ)
            self.handshake_bytes += body
        n = 4 + int.from_bytes(self.handshake_bytes[1:4], "big")
        m, self.handshake_bytes = self.handshake_bytes[:n], self.handshake_bytes[n:]
        if m[0] not in types:
            raise ValueError("handshake message %d, want %s" % (m[0], types))
        self.transcript.append(m)
        return m[0], m[4:]

    # Hellos. Scapy builds them.

    def send_client_hello(self, suites, groups, share, sid, more):
        if share not in self.shares:
            self.shares[share] = _tls_named_groups_generate(share)
        entry = KeyShareEntry(group=share, key_exchange=_tls_named_groups_pubbytes(self.shares[share]))
        ext = [
            TLS_Ext_SupportedVersion_CH(versions=["TLS 1.3"]),
            TLS_Ext_SupportedGroups(groups=groups),
            TLS_Ext_KeyShare_CH(client_shares=[entry]),
            TLS_Ext_SignatureAlgorithms(sig_algs=SIGNATURES),
            TLS_Ext_ServerName(servernames=[ServerName(servername=b"localhost")]),
        ] + [TLS_Ext_Unknown(type=t, len=len(d), val=d) for t, d in more]
        self.client_random = getattr(self, "client_random", None) or os.urandom(32)
        self.send_raw(bytes(TLS13ClientHello(version=0x0303, random_bytes=self.client_random, sid=sid, ciphers=suites, ext=ext)))

    def read_client_hello(self):
        _, body = self.receive(CLIENT_HELLO)
        r = Reader(body)
        r.take(2)
        self.client_random = r.take(32)
        self.sid = r.vec(1)
        suites = Reader(r.vec(2)).b
        r.vec(1)
        self.client_suites = [int.from_bytes(suites[i:i + 2], "big") for i in range(0, len(suites), 2)]
        self.client_extensions = r.extensions()
        shares = Reader(Reader(self.client_extensions[51]).vec(2))
        self.client_shares = {}
        while shares.b:
            group = shares.uint(2)
            self.client_shares[group] = shares.vec(2)
        return self.client_extensions

    def read_server_hello(self):
        """Returns the group that is asked for if this is a HelloRetryRequest."""
        _, body = self.receive(SERVER_HELLO)
        r = Reader(body)
        r.take(2)
        random = r.take(32)
        r.vec(1)
        suite = r.uint(2)
        r.take(1)
        ext = r.extensions()
        share = Reader(ext[51])
        group = share.uint(2)
        if random == RETRY:
            self.replace_first_hello(suite, self.transcript[:1])
            return group
        self.agree(suite, self.exchange(self.shares[group], group, share.vec(2)))
        return None

    def send_retry(self, suite, group):
        m = bytes(TLS13HelloRetryRequest(version=0x0303, sid=self.sid, cipher=suite, ext=[TLS_Ext_SupportedVersion_SH(version="TLS 1.3"), TLS_Ext_KeyShare_HRR(selected_group=group)]))
        self.send_raw(m)
        self.replace_first_hello(suite, self.transcript[:1])

    def replace_first_hello(self, suite, hello):
        """After a HelloRetryRequest, the first ClientHello is there as a hash (RFC 8446, 4.4.1)."""
        h = _tls_cipher_suites_cls[suite].hash_alg.name.lower()
        self.transcript = [b"\xfe\0\0" + vec(1, hashlib.new(h, hello[0]).digest())] + self.transcript[1:]

    def send_server_hello(self, suite, group, more=()):
        private = _tls_named_groups_generate(group)
        entry = KeyShareEntry(group=group, key_exchange=_tls_named_groups_pubbytes(private))
        ext = [TLS_Ext_SupportedVersion_SH(version="TLS 1.3"), TLS_Ext_KeyShare_SH(server_share=entry)]
        ext += [TLS_Ext_Unknown(type=t, len=len(d), val=d) for t, d in more]
        self.send_raw(bytes(TLS13ServerHello(version=0x0303, random_bytes=os.urandom(32), sid=self.sid, cipher=suite, ext=ext)))
        self.agree(suite, self.exchange(private, group, self.client_shares[group]))

    def exchange(self, private, group, public):
        public = _tls_named_groups_import(group, public)
        return private.exchange(public) if group in (29, 30) else private.exchange(ec.ECDH(), public)

    # Keys. Scapy derives them.

    def agree(self, suite, shared):
        s, cls = self.s, _tls_cipher_suites_cls[suite]
        self.cls = cls
        self.hash = cls.hash_alg.name.lower()
        s.prcs = readConnState(ciphersuite=cls, connection_end=self.role, tls_version=0x0304)
        s.pwcs = writeConnState(ciphersuite=cls, connection_end=self.role, tls_version=0x0304)
        self.hkdf = s.prcs.hkdf
        s.tls13_dhe_secret = shared
        s.handshake_messages = list(self.transcript)
        s.compute_tls13_handshake_secrets()
        d = s.tls13_derived_secrets
        self.hello_transcript = b"".join(self.transcript)
        self.secrets = {"client": d["client_handshake_traffic_secret"], "server": d["server_handshake_traffic_secret"]}
        self.log("HANDSHAKE_SECRET", s.tls13_handshake_secret)
        self.log("CLIENT_HANDSHAKE_TRAFFIC_SECRET", self.secrets["client"])
        self.log("SERVER_HANDSHAKE_TRAFFIC_SECRET", self.secrets["server"])
        self.reading = self.state(readConnState, self.secrets[self.other()])
        self.writing = self.state(writeConnState, self.secrets[self.role])

    def other(self):
        return "server" if self.role == "client" else "client"

    def state(self, make, secret):
        state = make(ciphersuite=self.cls, connection_end=self.role, tls_version=0x0304)
        state.tls13_derive_keys(secret)
        return state

    def server_finished(self):
        """The transcript has come to the server's Finished: derive what follows from it."""
        self.s.handshake_messages = list(self.transcript)
        self.s.compute_tls13_traffic_secrets()
        d = self.s.tls13_derived_secrets
        self.application = {"client": d["client_traffic_secrets"][0], "server": d["server_traffic_secrets"][0]}
        self.exporter_secret = d["exporter_secret"]
        self.log("EXPORTER_SECRET", self.exporter_secret)

    def log(self, label, secret):
        with open(os.path.join(os.environ["ATLS_INTEROP_LOGS"], "keys.log"), "a") as f:
            f.write("%s %s %s\n" % (label, self.client_random.hex(), secret.hex()))

    def transcript_hash(self):
        return hashlib.new(self.hash, b"".join(self.transcript)).digest()

    def export(self, secret, label, context, n):
        """The exporter of RFC 8446, section 7.5, from any exporter secret."""
        derived = self.hkdf.derive_secret(secret, label, b"")
        return self.hkdf.expand_label(derived, b"exporter", hashlib.new(self.hash, context).digest(), n)

    def binder(self, nonce, transcript=None):
        """The channel binder of draft-fossati-tls-attestation-08, section 6.2.1."""
        secret = self.hkdf.derive_secret(self.s.tls13_handshake_secret, b"h exp master", transcript or self.hello_transcript)
        return self.export(secret, b"attestation-binder", nonce, len(nonce))

    def early_binder(self, revision, who, spki):
        """The binder of draft-fossati-seat-early-attestation, section 5.1.1, which takes no secret."""
        size = hashlib.new(self.hash).digest_size
        if revision == 6:
            label, transcript, context = b"attestation base", self.hello_transcript, hashlib.new(self.hash, spki).digest()
        else:
            # The server's goes up to EncryptedExtensions, the client's up to the server's Finished.
            last = ENCRYPTED_EXTENSIONS if who == "server" else FINISHED
            types = [m[0] for m in self.transcript]
            transcript = b"".join(self.transcript[:types.index(last) + 1])
            label, context = who[:1].encode() + b" attestation base", spki
        base = self.hkdf.expand_label(bytes(size), label, hashlib.new(self.hash, transcript).digest(), size)
        return self.hkdf.expand_label(base, b"attestation", context, size)

    # Signatures and Finished.

    def to_sign(self, role):
        return b"\x20" * 64 + b"TLS 1.3, %s CertificateVerify\0" % role.encode() + self.transcript_hash()

    def send_certificate_verify(self, key, spoil=False):
        what = self.to_sign(self.role)
        if spoil:
            what = what[:-1] + bytes([what[-1] ^ 1])
        scheme, sig = sign(key, what)
        self.send(CERTIFICATE_VERIFY, struct.pack("!H", scheme) + vec(2, sig))

    def read_certificate_verify(self):
        """Returns a function that checks it with a key."""
        what = self.to_sign(self.other())
        _, body = self.receive(CERTIFICATE_VERIFY)
        r = Reader(body)
        scheme, sig = r.uint(2), r.vec(2)

        return lambda key: verify(key, scheme, sig, what)

    def verify_data(self, role):
        return self.hkdf.compute_verify_data(self.secrets[role], b"".join(self.transcript))

    def send_finished(self):
        self.send(FINISHED, self.verify_data(self.role))

    def read_finished(self):
        want = self.verify_data(self.other())
        _, body = self.receive(FINISHED)
        if body != want:
            raise ValueError("Finished does not verify")

    def write_with(self, secret):
        self.writing = self.state(writeConnState, secret)

    def read_with(self, secret):
        self.reading = self.state(readConnState, secret)

    # Application data.

    def read_data(self):
        while True:
            typ, body = self.read_record()
            if typ == DATA:
                return body
            if typ == HANDSHAKE and body and body[0] in (TICKET, KEY_UPDATE):
                continue
            raise ValueError("record of type %d among application data" % typ)

    def close(self):
        try:
            self.record(ALERT, b"\1\0")
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def sign(key, what):
    if isinstance(key, rsa.RSAPrivateKey):
        return 0x0804, key.sign(what, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return 0x0807, key.sign(what)
    if key.curve.name == "secp384r1":
        return 0x0503, key.sign(what, ec.ECDSA(hashes.SHA384()))
    return 0x0403, key.sign(what, ec.ECDSA(hashes.SHA256()))


def verify(key, scheme, sig, what):
    """Raises InvalidSignature, also if the scheme does not go with the key."""
    if scheme == 0x0804 and isinstance(key, rsa.RSAPublicKey):
        key.verify(sig, what, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    elif scheme == 0x0807 and isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(sig, what)
    elif scheme in (0x0403, 0x0503) and isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(sig, what, ec.ECDSA(hashes.SHA256() if scheme == 0x0403 else hashes.SHA384()))
    else:
        raise InvalidSignature
