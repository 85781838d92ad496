package interop

// wrongCases are handshakes in which the peer does wrong, and the fork refuses.
func wrongCases(add func(Case)) {
	wrong := func(role side, name, about string, alert uint8, must Must, more ...func(*Case)) {
		c := Case{
			ID: "wrong." + role.String() + "." + name, About: about, Must: must, Mode: modeAttest, roles: []side{role},
			attests: []side{role}, expect: expectation{alert: alert},
		}
		for _, f := range more {
			f(&c)
		}
		add(c)
	}
	quick := func(c *Case) { c.Quick = true }
	// ofServer has the server attest, of which the client asks something wrong.
	ofServer := func(c *Case) { c.attests = []side{server} }
	result := func(c *Case) { c.Mode = modePassport }
	// noVerify has the fork ask for nothing. It attests all the same, if asked: with
	// attestation off altogether it is crypto/tls, which ignores what it does not know.
	noVerify := func(c *Case) {
		c.attests = nil
		c.fork = func(f *flags) {
			f.attest = "softtee:tdx"
			if f.role == server {
				f.add("--client-ca", f.file("ca.pem"))
			} else {
				f.add("--cert", f.file("client.pem"), "--key", f.file("client.key"))
			}
		}
	}
	wrong(server, "unoffered-type", "selects a type of evidence that was not offered", alertIllegalParameter, mustSelected, quick)
	wrong(server, "selection-trailing-byte", "a byte too many behind the selection", alertDecodeError, mustParse)
	wrong(server, "in-server-hello", "answers in ServerHello", alertIllegalParameter, mustEncrypted)
	wrong(server, "unasked-answer", "answers an extension that the client did not send", alertUnsupportedExt, mustAsked, noVerify)
	wrong(server, "unasked-evidence", "sends evidence that nobody asked for", alertUnsupportedExt, mustAsked, noVerify)
	wrong(server, "no-evidence", "agrees to attest and sends a certificate alone", alertHandshakeFailure, mustSend, quick)
	wrong(server, "second-entry", "evidence beside the second certificate", alertIllegalParameter, mustFirst)
	wrong(server, "twice", "the evidence twice in an entry", alertIllegalParameter, mustOnce)
	wrong(server, "malformed", "evidence that is no CMW", alertDecodeError, mustWrapper)
	wrong(server, "wrong-binder", "evidence over a binder with one bit changed", alertBadCertificate, mustInclusion, quick)
	wrong(server, "first-hello-binder", "evidence over ClientHello alone", alertBadCertificate, mustInclusion)
	wrong(server, "nonce-for-binder", "evidence over the bare nonce", alertBadCertificate, mustInclusion)
	wrong(server, "wrong-role", "evidence made for the other role", alertBadCertificate, mustCarry)
	wrong(server, "wrong-key", "evidence over another key", alertBadCertificate, mustKey)
	wrong(server, "bad-signature", "a quote with one bit changed", alertBadCertificate, mustCarry)
	wrong(server, "wrong-measurement", "a machine that the policy does not know", alertAccessDenied, mustPolicy)
	wrong(server, "debug", "a machine under debug", alertAccessDenied, mustPolicy)
	wrong(server, "bad-certificate-verify", "a CertificateVerify with one bit changed", alertDecryptError, mustVerifyAlert)
	wrong(server, "proposal-without-request", "selects the client's proposal and sends no CertificateRequest", alertIllegalParameter, mustCertRequest, func(c *Case) { c.attests = []side{client} })

	wrong(client, "no-offer", "offers nothing to a server that requires it", alertMissingExtension, mustRequired, quick)
	wrong(client, "no-common-type", "offers a type that the server does not know", alertUnsupportedEvidence, mustCommon, quick)
	wrong(client, "request-no-common-type", "asks for a type that the server cannot make", alertUnsupportedEvidence, mustCommon, ofServer)
	wrong(client, "request-no-common-verifier", "asks for results of a verifier that the server has none of", alertUnsupportedVerifier, mustVerifiers, ofServer, result)
	wrong(client, "short-nonce", "a nonce of seven bytes", alertDecodeError, mustNonce, ofServer)
	wrong(client, "empty-list", "an empty list of types", alertDecodeError, mustTypes, ofServer)
	wrong(client, "trailing-byte", "a byte too many behind the nonce", alertDecodeError, mustParse, ofServer)
	wrong(client, "unknown-encoding", "a type in an encoding that does not exist", alertDecodeError, mustParse, ofServer)
	wrong(client, "new-nonce-after-hrr", "another nonce in the second ClientHello", alertIllegalParameter, mustSameHello, ofServer)
	wrong(client, "dropped-after-hrr", "the second ClientHello does not ask any more", alertIllegalParameter, mustSameHello, ofServer)
	wrong(client, "no-evidence", "agrees to attest and sends a certificate alone", alertCertificateRequired, mustSendC)
	wrong(client, "no-certificate", "agrees to attest and sends an empty Certificate", alertCertificateRequired, mustSendC)
	wrong(client, "unasked-evidence", "sends evidence that nobody asked for", alertUnsupportedExt, mustAsked, noVerify)
	wrong(client, "malformed", "evidence that is no CMW", alertDecodeError, mustWrapper)
	wrong(client, "wrong-binder", "evidence over a binder with one bit changed", alertBadCertificate, mustInclusion, quick)
	wrong(client, "wrong-role", "evidence made for the other role", alertBadCertificate, mustCarry)
	wrong(client, "wrong-key", "evidence over another key", alertBadCertificate, mustKey)
	wrong(client, "bad-signature", "a quote with one bit changed", alertBadCertificate, mustCarry)
	wrong(client, "wrong-measurement", "a machine that the policy does not know", alertAccessDenied, mustPolicy)

	after := func(c *Case) { c.Mode = modeExpat }
	wrong(server, "expat-other-context", "evidence over the context of another request", alertBadCertificate, mustExported, after, quick)
	wrong(server, "expat-wrong-key", "evidence over another key", alertBadCertificate, mustExported, after)
	wrong(server, "expat-wrong-measurement", "a machine that the policy does not know", alertAccessDenied, mustPolicy, after)
	wrong(server, "expat-malformed", "evidence that is no CMW", alertDecodeError, mustParse, after)
	wrong(server, "expat-no-evidence", "an authenticator without evidence", alertHandshakeFailure, mustSend, after)
	wrong(server, "expat-bad-signature", "an authenticator with a signature of something else", alertDecryptError, mustVerifyAlert, after)
	wrong(server, "expat-bad-finished", "an authenticator whose Finished is under another key", alertDecryptError, mustExportedFinished, after)
	wrong(server, "expat-refusal", "declines to authenticate", alertHandshakeFailure, mustRequired, after)
	wrong(client, "expat-other-context", "evidence over the context of another request", alertBadCertificate, mustExported, after)
	wrong(client, "expat-no-evidence", "an authenticator without evidence", alertCertificateRequired, mustSendC, after)

	early := func(c *Case) { c.Mode, c.form = modeEarly, early06 }
	earlyOfServer := func(c *Case) { early(c); ofServer(c) }
	for _, role := range both {
		wrong(role, "early-wrong-binder", "evidence over a binder with one bit changed", alertAttestationFailed, mustEarlyRejected, early, quick)
		wrong(role, "early-wrong-key", "evidence over another key", alertAttestationFailed, mustEarlyKey, early)
		wrong(role, "early-no-evidence", "agrees to attest and sends a certificate alone", alertAttestationRequired, mustEarlyMissing, early, quick)
	}
	wrong(server, "early-first-hello-binder", "evidence over ClientHello alone", alertAttestationFailed, mustEarlyBinder, early)
	wrong(server, "early-other-rule", "evidence under the hardened rule", alertAttestationFailed, mustEarlyBinder, early)
	wrong(server, "early-wrong-measurement", "a machine that the policy does not know", alertAttestationFailed, mustEarlyRejected, early)
	wrong(server, "early-bad-signature", "a quote with one bit changed", alertAttestationFailed, mustEarlyRejected, early)
	wrong(server, "early-malformed", "evidence that is no CMW", alertAttestationFailed, mustEarlyRejected, early)
	wrong(server, "early-no-answer", "does not say that it attests", alertAttestationRequired, mustEarlyMissing, early, quick)
	wrong(server, "early-unoffered-scheme", "chooses a scheme that was not offered", alertIllegalParameter, mustEarlyScheme, early)
	wrong(server, "early-trailing-byte", "a byte too many behind the scheme", alertDecodeError, mustParse, early)
	wrong(server, "early-other-form", "answers with evidence_request", alertUnsupportedExt, mustAsked, early)
	wrong(client, "early-no-offer", "offers nothing to a server that requires it", alertAttestationRequired, mustEarlyMissing, early)
	wrong(client, "early-no-common-scheme", "offers a type that the server does not know", alertUnsupportedSchemes, mustEarlyCommon, early, quick)
	wrong(client, "early-no-common-direction", "asks for a type that the server cannot make", alertUnsupportedSchemes, mustEarlyCommon, earlyOfServer)
	wrong(client, "early-unknown-mechanism", "asks for a mechanism that does not exist", alertDecodeError, mustParse, earlyOfServer)
	wrong(client, "early-trailing-byte", "a byte too many behind the schemes", alertDecodeError, mustParse, earlyOfServer)
	wrong(client, "early-no-certificate", "agrees to attest and sends an empty Certificate", alertAttestationRequired, mustEarlyMissing, early)

	two := func(c *Case) { c.twoKeys = true }
	only := func(c *Case) { c.only = true }
	wrong(server, "two-keys-bad-proof", "the attested key signs something else", alertDecryptError, mustTwoKeys, two)
	wrong(server, "two-keys-no-proof", "evidence covers a key that signs nothing", alertBadCertificate, mustTwoKeys, two)
	wrong(server, "two-keys-unasked", "a proof that the client does not accept", alertUnsupportedExt, mustAsked)
	wrong(client, "two-keys-bad-proof", "the attested key signs something else", alertDecryptError, mustTwoKeys, two)
	wrong(server, "result-other-key", "a result about another key", alertBadCertificate, mustKey, result)
	wrong(client, "result-other-key", "a result about another key", alertBadCertificate, mustKey, result)
	wrong(server, "result-bad-signature", "a result with another signature", alertBadCertificate, mustCarry, result)
	wrong(server, "token-other-session", "in place of a certificate, a token of another session", alertBadCertificate, mustInclusion, only)
	wrong(client, "token-other-session", "in place of a certificate, a token of another session", alertBadCertificate, mustInclusion, only)
	wrong(server, "token-unvouched-key", "in place of a certificate, a token by a key that no platform vouches for", alertBadCertificate, mustCarry, only)
}
