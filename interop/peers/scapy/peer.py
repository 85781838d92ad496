"""One end of a case, on Scapy. The contract is in ../CONTRACT.md."""

import hashlib
import os
import sys

import cases

ROLE = os.environ["ATLS_INTEROP_ROLE"]
PLAN = cases.plan(os.environ["ATLS_INTEROP_CASE"], ROLE)
if PLAN is None:
    sys.exit(127)

import socket

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import early
import evidence
import expat
import tls13
from evidence import Refused, spki_of
from tls13 import CERTIFICATE, CERTIFICATE_REQUEST, ENCRYPTED_EXTENSIONS, Alerted, Closed, Reader, extensions, vec

# Extensions, in the private-use range.
EVIDENCE, EVIDENCE_REQUEST, EVIDENCE_PROPOSAL, RESULTS_REQUEST, RESULTS_PROPOSAL = range(0xFFA0, 0xFFA5)
KEY_PROOF = 0xFFA6  # not of the draft

P256, X25519, X448 = 23, 29, 30


def evidence_type(kind, media_type):
    return bytes([kind, 1]) + vec(2, media_type.encode())


def my_type(p, attester):
    """The type of evidence that an end is to present."""
    if p.early:  # there is no kind of credential
        return evidence_type(0, evidence.OWN if p.own and attester == p.role else evidence.TSM)[1:]
    if p.own and attester == p.role:
        return evidence_type(1, evidence.OWN)
    return evidence_type(0, evidence.BUNDLE) if p.only else evidence_type(1, evidence.TSM)


def verifiers(p):
    name = evidence.VERIFIER if p.wrong != "request-no-common-verifier" else "https://nobody.invalid/"
    return vec(2, name.encode())


def request_extension(p, nonce):
    """What the client asks of the server, if it asks."""
    if not p.presents("server") or p.early == 6:
        return []
    if p.results:
        return [(RESULTS_REQUEST, vec(1, verifiers(p)))]
    types = my_type(p, "server")
    if p.wrong == "request-no-common-type":
        types = evidence_type(1, "application/x-unknown")
    if p.wrong == "empty-list":
        types = b""
    if p.wrong == "unknown-encoding":
        types = bytes([1, 7]) + types[2:]
    if p.wrong == "short-nonce":
        nonce = nonce[:7]
    body = vec(1, types) + (vec(1, nonce) if not p.early else b"")
    if p.wrong == "trailing-byte":
        body += b"\0"
    return [(EVIDENCE_REQUEST, body)]


def proposal_extension(p):
    """What the client offers to present, if it does."""
    if not p.presents("client") or p.early == 6:
        return []
    if p.results:
        return [(RESULTS_PROPOSAL, vec(1, verifiers(p)))]
    types = my_type(p, "client")
    if p.wrong == "no-common-type":
        types = evidence_type(1, "application/x-unknown")
    return [(EVIDENCE_PROPOSAL, vec(1, types))]


def credential(p):
    """This end's certificate and key."""
    name = ROLE + (p.cert if ROLE == "server" else "")
    with open(evidence.certs(name + ".pem"), "rb") as f:
        return x509.load_pem_x509_certificate(f.read()), evidence.load_key(name + ".key")


def certificate(c, p, nonce):
    """The body of this end's Certificate, and the key that goes with it."""
    cert, key = credential(p)
    der = cert.public_bytes(serialization.Encoding.DER)
    entry = lambda data, ext: vec(3, data) + extensions(ext)
    body = lambda entries: vec(1, c.request_context) + vec(3, b"".join(entries))
    if p.wrong == "unasked-evidence":
        return body([entry(der, [(EVIDENCE, evidence.make_report(bytes(64)))])]), key
    if not p.presents(ROLE) or p.wrong in ("no-evidence", "early-no-evidence"):
        return body([entry(der, [])]), key
    if p.wrong in ("no-certificate", "early-no-certificate"):
        return body([]), None
    ek = ec.generate_private_key(ec.SECP256R1()) if p.two_keys else None
    cmw = present(c, p, nonce, ek or key)
    if p.only:
        return body([entry(cmw, [])]), key
    ext = [early.carry(p, cmw)] if p.early else [(EVIDENCE, cmw)]
    if ek and p.wrong != "two-keys-no-proof":
        scheme, sig = tls13.sign(ek, key_proof(c, p, ROLE, c.transcript, der, cmw if p.wrong != "two-keys-bad-proof" else b""))
        ext.append((KEY_PROOF, scheme.to_bytes(2, "big") + vec(2, spki_of(ek.public_key())) + vec(2, sig)))
    if p.wrong == "twice":
        ext *= 2
    if p.wrong == "second-entry":
        with open(evidence.certs("ca.pem"), "rb") as f:
            ca = x509.load_pem_x509_certificate(f.read()).public_bytes(serialization.Encoding.DER)
        return body([entry(der, []), entry(ca, ext)]), key
    return body([entry(der, ext)]), key


def key_proof(c, p, who, before, der, cmw):
    """What the attested key signs, where it is not the certificate's."""
    hashed = b"".join(hashlib.new(c.hash, b).digest() for b in (b"".join(before), der, cmw))
    return b"\x20" * 64 + b"TLS 1.3, attested key proof, %s\0" % who.encode() + hashed


def present(c, p, nonce, key):
    """The evidence or result that this end shows."""
    if p.results:
        return evidence.make_result(p.other() if p.wrong == "result-other-key" else ROLE, p.wrong == "result-bad-signature")
    if p.early:
        return early.present(c, p, spki_of(key.public_key()))
    binder = c.binder(nonce)
    if p.wrong == "wrong-binder":
        binder = bytes([binder[0] ^ 1]) + binder[1:]
    if p.wrong == "nonce-for-binder":
        binder = nonce
    if p.wrong == "first-hello-binder":
        binder = c.binder(nonce, c.transcript[0])
    if p.only:
        if p.wrong == "token-other-session":
            binder = os.urandom(len(binder))
        return evidence.make_bundle(p, nonce if p.draft08 else binder, key.public_key())
    spki = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key() if p.wrong == "wrong-key" else key.public_key())
    data = evidence.report_data(p, p.other() if p.wrong == "wrong-role" else ROLE, binder, spki)
    if p.own:
        return evidence.make_own(data)
    cmw = evidence.make_report(data, "snp" if p.snp else {"wrong-measurement": "tdx-unknown", "debug": "tdx-debug"}.get(p.wrong, "tdx"))
    if p.wrong == "malformed":
        return b"\xff" + cmw
    if p.wrong == "bad-signature":
        # A bit of RTMR3, far from all lengths.
        at = cmw.index(data) - 8
        return cmw[:at] + bytes([cmw[at] ^ 1]) + cmw[at + 1:]
    return cmw


def check_peer(c, p, nonce, body, verify_signature):
    """Verifies the other end's Certificate, evidence and CertificateVerify."""
    who = p.other()
    r = Reader(body)
    r.vec(1)
    entries, list_ = [], Reader(r.vec(3))
    while list_.b:
        data = list_.vec(3)
        entries.append((data, list_.extensions()))
    if not entries:
        raise Refused("no certificate", 116)
    data, ext = entries[0]
    if p.presents(who) and p.only:
        if len(entries) != 1 or ext:
            raise Refused("evidence in place of a certificate is not alone", 47)
        if p.results:
            key = evidence.verify_result(p, data, None)
        else:
            key = evidence.verify_evidence(p, who, data, nonce if p.draft08 else c.binder(nonce), None, None)
    else:
        cert = x509.load_der_x509_certificate(data)
        key = cert.public_key()
        with open(evidence.certs("ca.pem"), "rb") as f:
            evidence.verify_certificate(cert, x509.load_pem_x509_certificate(f.read()))
        cmw = early.carried(p, ext) if p.early else ext.pop(EVIDENCE, None)
        if p.presents(who):
            if cmw is None:
                raise Refused("there is no evidence", 40)
            if p.results:
                evidence.verify_result(p, cmw, spki_of(key))
            elif p.early:
                early.verify(c, p, who, cmw, spki_of(key))
            else:
                spki = check_key_proof(c, p, who, data, cmw, ext) if p.two_keys else spki_of(key)
                evidence.verify_evidence(p, who, cmw, None, c.binder(nonce), spki)
        elif cmw is not None:
            raise Refused("evidence that was not asked for", 110)
    try:
        verify_signature(key)
    except InvalidSignature:
        raise Refused("CertificateVerify does not verify", 51)


def check_key_proof(c, p, who, der, cmw, ext):
    """Verifies attested_key_proof, and returns the key that the evidence must cover."""
    if KEY_PROOF not in ext:
        raise Refused("there is no proof of the attested key", 109)
    r = Reader(ext[KEY_PROOF])
    scheme, spki, sig = r.uint(2), r.vec(2), r.vec(2)
    try:
        # Certificate and CertificateVerify have been read.
        tls13.verify(serialization.load_der_public_key(spki), scheme, sig, key_proof(c, p, who, c.transcript[:-2], der, cmw))
    except InvalidSignature:
        raise Refused("the proof of the attested key does not verify", 51)
    return spki


def selection(p, ext, typ, what):
    """The rest of an answer in EncryptedExtensions, behind what was selected."""
    if typ not in ext:
        raise Refused("EncryptedExtensions lacks %#x" % typ, 109)
    if not ext[typ].startswith(what):
        raise Refused("selected something else", 47)
    return ext[typ][len(what):]


def client(c, p):
    nonce = os.urandom(64)
    suites = [p.suite] if p.suite else [0x1301, 0x1302, 0x1303]
    groups, share = [X25519, P256], X25519
    if p.group:
        groups, share = [p.group], p.group
    if p.retry:
        groups, share = [X448, P256], X448
    sid = os.urandom(32)
    more = early.offer(p, my_type, verifiers) if p.early == 6 else request_extension(p, nonce) + proposal_extension(p)
    if p.two_keys and p.presents("server"):
        more.append((KEY_PROOF, b""))
    c.send_client_hello(suites, groups, share, sid, more)
    group = c.read_server_hello()
    if group is not None:
        if p.wrong == "new-nonce-after-hrr":
            more = request_extension(p, os.urandom(64))
        if p.wrong == "dropped-after-hrr":
            more = []
        c.send_client_hello(suites, groups, group, sid, more)
        if c.read_server_hello() is not None:
            raise Refused("a second HelloRetryRequest", 10)
    ext = Reader(c.receive(ENCRYPTED_EXTENSIONS)[1]).extensions()
    mine = None
    if p.early == 6:
        early.check_choice(p, ext, "server", my_type, verifiers)
    elif p.presents("server"):
        rest = selection(p, ext, RESULTS_REQUEST if p.results else EVIDENCE_REQUEST, verifiers(p) if p.results else my_type(p, "server"))
        if rest:
            raise Refused("bytes behind the selection", 50)
    if p.presents("client") and p.early != 6:
        rest = selection(p, ext, RESULTS_PROPOSAL if p.results else EVIDENCE_PROPOSAL, verifiers(p) if p.results else my_type(p, "client"))
        mine = None if p.results or p.early else Reader(rest).vec(1)
    typ, body = c.receive(CERTIFICATE_REQUEST, CERTIFICATE)
    asked, c.request_context = typ == CERTIFICATE_REQUEST, b""
    if asked:
        request = Reader(body)
        c.request_context = request.vec(1)
        if p.early == 6:
            early.check_choice(p, request.extensions(), "client", my_type, verifiers)
    elif p.early == 6 and p.presents("client"):
        raise Refused("there is no CertificateRequest", 225)
    if asked:
        body = c.receive(CERTIFICATE)[1]
    check_peer(c, p, nonce, body, c.read_certificate_verify())
    c.read_finished()
    c.server_finished()
    if asked and (p.client_cert or p.presents("client") or p.wrong == "unasked-evidence"):
        body, key = certificate(c, p, mine)
        c.send(CERTIFICATE, body)
        if key is not None:
            c.send_certificate_verify(key)
    elif asked:
        c.send(CERTIFICATE, vec(1, c.request_context) + vec(3, b""))
    c.send_finished()
    c.write_with(c.application["client"])
    c.read_with(c.application["server"])
    if p.exchange:
        expat.Exchange(c, p, credential).run()
    if p.fails:
        c.read_data()
        return
    line = b"hello from Scapy\n"
    c.record(tls13.DATA, line)
    got = b""
    while len(got) < len(line):
        got += c.read_data()
    if got != line:
        raise ValueError("the echo is %r" % got)


def parse_offer(p, ext, typ, want):
    """Checks that an offer in ClientHello has what is wanted, and returns what is behind the list."""
    if typ not in ext:
        raise Refused("ClientHello lacks %#x" % typ, 109)
    r = Reader(ext[typ])
    if want not in r.vec(1):
        raise Refused("nothing in common", 225 if p.results else 224)
    return r.b


def server(c, p):
    ext = c.read_client_hello()
    suite = p.suite or 0x1301
    group = p.group or X25519
    if p.retry:
        group = P256
    if group not in c.client_shares:
        c.send_retry(suite, group)
        again = c.read_client_hello()
        for t in range(EVIDENCE, early.REMOTE_ATTESTATION + 1):
            if ext.get(t) != again.get(t):
                raise Refused("an offer has changed after HelloRetryRequest", 47)
    answers, hello, theirs, nonce, chosen = [], [], None, os.urandom(64), []
    if p.early == 6:
        answers, chosen = early.choose(p, ext, my_type, verifiers)
    elif p.presents("server"):
        typ, what = (RESULTS_REQUEST, verifiers(p)) if p.results else (EVIDENCE_REQUEST, my_type(p, "server"))
        rest = parse_offer(p, ext, typ, what)
        theirs = None if p.results or p.early else Reader(rest).vec(1)
        if p.wrong == "unoffered-type":
            what = evidence_type(1, "application/x-unknown")
        if p.wrong == "selection-trailing-byte":
            what += b"\0"
        (hello if p.wrong == "in-server-hello" else answers).append((typ, what))
    if p.presents("client") and p.early != 6 or p.wrong == "proposal-without-request":
        typ, what = (RESULTS_PROPOSAL, verifiers(p)) if p.results else (EVIDENCE_PROPOSAL, my_type(p, "client"))
        parse_offer(p, ext, typ, what)
        answers.append((typ, what if p.results or p.early else what + vec(1, nonce)))
    if p.wrong == "unasked-answer":
        answers.append((EVIDENCE_REQUEST, evidence_type(1, evidence.TSM)))
    c.send_server_hello(suite, group, hello)
    c.send(ENCRYPTED_EXTENSIONS, extensions(answers))
    asks = p.client_cert and not p.exchange or p.presents("client")
    if asks:
        schemes = vec(2, b"".join(s.to_bytes(2, "big") for s in tls13.SIGNATURES))
        c.send(CERTIFICATE_REQUEST, vec(1, b"") + extensions([(13, schemes)] + ([(KEY_PROOF, b"")] if p.two_keys else []) + chosen))
    c.request_context = b""
    body, key = certificate(c, p, theirs)
    c.send(CERTIFICATE, body)
    c.send_certificate_verify(key, p.wrong == "bad-certificate-verify")
    c.send_finished()
    c.server_finished()
    c.write_with(c.application["server"])
    if asks:
        body = c.receive(CERTIFICATE)[1]
        check_peer(c, p, nonce, body, c.read_certificate_verify())
    c.read_finished()
    c.read_with(c.application["client"])
    if p.exchange:
        expat.Exchange(c, p, credential).run()
    while True:
        try:
            data = c.read_data()
        except Closed:
            return
        c.record(tls13.DATA, data)


def main():
    host, port = os.environ["ATLS_INTEROP_ADDRESS"].rsplit(":", 1)
    if ROLE == "client":
        sock = socket.create_connection((host, int(port)), 10)
    else:
        listener = socket.create_server((host, int(port)))
        listener.settimeout(10)
        sock, _ = listener.accept()
        listener.close()
    c = tls13.Conn(sock, ROLE)
    try:
        (client if ROLE == "client" else server)(c, PLAN)
    except Alerted as e:
        print(e)
        return 0 if PLAN.fails else 1
    except Refused as e:
        print("refused: %s, alert %d" % (e, e.alert))
        c.alert(e.alert)
        c.close()
        return 0 if PLAN.fails else 1
    if PLAN.fails:
        print("the handshake succeeded")
        return 1
    c.close()
    return 0


sys.exit(main())
