package tls

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"
)

// FromStd returns the Config of this package that says what a Config of the
// standard library says. It is for programs that are handed the latter, by a flag
// package or a certificate manager for example. A nil std gives nil, as both
// packages take a nil Config for one of defaults.
//
// Callbacks of std are called with values of the standard library's types, whose
// methods work, and with the attestation settings of the connection's own Config
// still in force: a Config that std.GetConfigForClient returns goes through
// FromStd as well, and what it has no field for comes from the Config that it
// replaces. The result shares slices, maps, pools and callbacks with std, and
// neither may be changed afterwards.
//
// FromStd returns an error that names the field where std says something that
// cannot be carried over:
//
//   - ClientSessionCache, WrapSession and UnwrapSession, as the sessions of the
//     two packages have different types. Set them on the result.
//   - keys set by SetSessionTicketKeys, which the standard library does not hand
//     out. Call SetSessionTicketKeys on the result.
//   - any field that is set and that this version of the package does not know.
//
// Ticket keys that std has rotated by itself are not carried: the result makes its
// own. FromStd must not run at the same time as std.SetSessionTicketKeys. If both
// packages log to one KeyLogWriter, it must be safe for concurrent use.
func FromStd(std *stdtls.Config) (*Config, error) {
	if std == nil {
		return nil, nil
	}
	c := &Config{}
	v := reflect.ValueOf(std).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).IsZero() {
			continue
		}
		if err := c.carry(name, std); err != nil {
			return nil, fmt.Errorf("tls: FromStd cannot carry the field %s of crypto/tls.Config: %w", name, err)
		}
	}
	return c, nil
}

// carry sets the field of c that std, where it is set, has under the same name.
func (c *Config) carry(name string, std *stdtls.Config) (err error) {
	switch name {
	case "mutex", "autoSessionTicketKeys": // say nothing

	case "Rand", "Time", "VerifyPeerCertificate", "RootCAs", "NextProtos", "ServerName", "ClientAuth", "ClientCAs", "InsecureSkipVerify",
		"CipherSuites", "PreferServerCipherSuites", "SessionTicketsDisabled", "SessionTicketKey", "MinVersion", "MaxVersion",
		"DynamicRecordSizingDisabled", "Renegotiation", "KeyLogWriter", "EncryptedClientHelloConfigList":
		to := reflect.ValueOf(c).Elem().FieldByName(name)
		to.Set(reflect.ValueOf(std).Elem().FieldByName(name).Convert(to.Type()))

	case "CurvePreferences":
		c.CurvePreferences = convertSlice[CurveID](std.CurvePreferences)
	case "EncryptedClientHelloKeys":
		c.EncryptedClientHelloKeys, err = echKeysFromStd(std.EncryptedClientHelloKeys)
	case "Certificates":
		for i := range std.Certificates {
			cert, err := certificateFromStd(&std.Certificates[i])
			if err != nil {
				return err
			}
			c.Certificates = append(c.Certificates, *cert)
		}
	case "NameToCertificate":
		c.NameToCertificate = map[string]*Certificate{}
		for name, cert := range std.NameToCertificate {
			if c.NameToCertificate[name], err = certificateFromStd(cert); err != nil {
				return err
			}
		}

	case "GetCertificate":
		c.GetCertificate = func(hello *ClientHelloInfo) (*Certificate, error) {
			cert, err := std.GetCertificate(hello.std(std))
			if err != nil {
				return nil, err
			}
			return certificateFromStd(cert)
		}
		return privateFieldsKnown()
	case "GetClientCertificate":
		c.GetClientCertificate = func(req *CertificateRequestInfo) (*Certificate, error) {
			cert, err := std.GetClientCertificate(req.std())
			if err != nil {
				return nil, err
			}
			return certificateFromStd(cert)
		}
		return privateFieldsKnown()
	case "GetConfigForClient":
		c.GetConfigForClient = func(hello *ClientHelloInfo) (*Config, error) {
			forClient, err := std.GetConfigForClient(hello.std(std))
			if err != nil || forClient == nil {
				return nil, err
			}
			c, err := FromStd(forClient)
			if err != nil {
				return nil, err
			}
			inheritFields(c, hello.config, reflect.TypeFor[stdtls.Config]())
			return c, nil
		}
		return privateFieldsKnown()
	case "GetEncryptedClientHelloKeys":
		c.GetEncryptedClientHelloKeys = func(hello *ClientHelloInfo) ([]EncryptedClientHelloKey, error) {
			keys, err := std.GetEncryptedClientHelloKeys(hello.std(std))
			if err != nil {
				return nil, err
			}
			return echKeysFromStd(keys)
		}
		return privateFieldsKnown()
	case "VerifyConnection":
		c.VerifyConnection = func(cs ConnectionState) error { return std.VerifyConnection(cs.Std()) }
	case "EncryptedClientHelloRejectionVerify":
		c.EncryptedClientHelloRejectionVerify = func(cs ConnectionState) error {
			return std.EncryptedClientHelloRejectionVerify(cs.Std())
		}

	case "ClientSessionCache", "UnwrapSession", "WrapSession":
		return errors.New("sessions of the standard library have another type; set it on the new Config")
	case "sessionTicketKeys":
		// The standard library also keeps here what it derives from SessionTicketKey.
		if keys := reflect.ValueOf(std).Elem().FieldByName(name); keys.Len() == 1 {
			key, derived := keys.Index(0), c.ticketKeyFromBytes(std.SessionTicketKey)
			if bytes.Equal(key.FieldByName("aesKey").Bytes(), derived.aesKey[:]) &&
				bytes.Equal(key.FieldByName("hmacKey").Bytes(), derived.hmacKey[:]) {
				return nil
			}
		}
		return errors.New("SetSessionTicketKeys was called; call that of the new Config")
	default:
		return errors.New("it is not known")
	}
	return err
}

// certificateFromStd converts a certificate. nil gives nil.
func certificateFromStd(std *stdtls.Certificate) (*Certificate, error) {
	if std == nil {
		return nil, nil
	}
	err := onlyFields(std, "Certificate", "PrivateKey", "SupportedSignatureAlgorithms", "OCSPStaple", "SignedCertificateTimestamps", "Leaf")
	if err != nil {
		return nil, err
	}
	return &Certificate{
		Certificate:                  std.Certificate,
		PrivateKey:                   std.PrivateKey,
		SupportedSignatureAlgorithms: convertSlice[SignatureScheme](std.SupportedSignatureAlgorithms),
		OCSPStaple:                   std.OCSPStaple,
		SignedCertificateTimestamps:  std.SignedCertificateTimestamps,
		Leaf:                         std.Leaf,
	}, nil
}

func echKeysFromStd(std []stdtls.EncryptedClientHelloKey) ([]EncryptedClientHelloKey, error) {
	var keys []EncryptedClientHelloKey
	for i := range std {
		if err := onlyFields(&std[i], "Config", "PrivateKey", "SendAsRetry"); err != nil {
			return nil, err
		}
		keys = append(keys, EncryptedClientHelloKey{
			Config:      std[i].Config,
			PrivateKey:  std[i].PrivateKey,
			SendAsRetry: std[i].SendAsRetry,
		})
	}
	return keys, nil
}

// std converts c for a callback of a standard Config, by which SupportsCertificate
// of the result judges.
func (c *ClientHelloInfo) std(config *stdtls.Config) *stdtls.ClientHelloInfo {
	s := &stdtls.ClientHelloInfo{
		CipherSuites:      c.CipherSuites,
		ServerName:        c.ServerName,
		SupportedCurves:   convertSlice[stdtls.CurveID](c.SupportedCurves),
		SupportedPoints:   c.SupportedPoints,
		SignatureSchemes:  convertSlice[stdtls.SignatureScheme](c.SignatureSchemes),
		SupportedProtos:   c.SupportedProtos,
		SupportedVersions: c.SupportedVersions,
		Extensions:        c.Extensions,
		Conn:              c.Conn,
		HelloRetryRequest: c.HelloRetryRequest,
	}
	setPrivate(s, "ctx", c.Context())
	setPrivate(s, "config", config)
	return s
}

func (c *CertificateRequestInfo) std() *stdtls.CertificateRequestInfo {
	s := &stdtls.CertificateRequestInfo{
		AcceptableCAs:    c.AcceptableCAs,
		SignatureSchemes: convertSlice[stdtls.SignatureScheme](c.SignatureSchemes),
		Version:          c.Version,
	}
	setPrivate(s, "ctx", c.Context())
	return s
}

// Std returns what the standard library's ConnectionState can say of the
// connection, for functions that take one. It shares slices with cs.
// ExportKeyingMaterial of the result gives what that of cs gives.
//
// What the peer attested is not part of it.
func (cs ConnectionState) Std() stdtls.ConnectionState {
	// A connection that may renegotiate has an ExportKeyingMaterial that returns an
	// error. In a zero ConnectionState it would panic.
	s := stdtls.Client(nil, &stdtls.Config{Renegotiation: stdtls.RenegotiateOnceAsClient}).ConnectionState()
	s.Version = cs.Version
	s.HandshakeComplete = cs.HandshakeComplete
	s.DidResume = cs.DidResume
	s.CipherSuite = cs.CipherSuite
	s.CurveID = stdtls.CurveID(cs.CurveID)
	s.NegotiatedProtocol = cs.NegotiatedProtocol
	s.NegotiatedProtocolIsMutual = cs.NegotiatedProtocolIsMutual
	s.ServerName = cs.ServerName
	s.PeerCertificates = cs.PeerCertificates
	s.VerifiedChains = cs.VerifiedChains
	s.SignedCertificateTimestamps = cs.SignedCertificateTimestamps
	s.OCSPResponse = cs.OCSPResponse
	s.TLSUnique = cs.TLSUnique
	s.ECHAccepted = cs.ECHAccepted
	s.HelloRetryRequest = cs.HelloRetryRequest
	if cs.ekm != nil {
		setPrivate(&s, "ekm", cs.ekm)
	}
	return s
}

// convertSlice converts between the two packages' names for one kind of number.
func convertSlice[To, From ~uint16](from []From) []To {
	if from == nil {
		return nil
	}
	to := make([]To, len(from))
	for i, v := range from {
		to[i] = To(v)
	}
	return to
}

// onlyFields returns an error if the struct that p points to has a field that is
// set and not named.
func onlyFields(p any, names ...string) error {
	v := reflect.ValueOf(p).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); !v.Field(i).IsZero() && !slices.Contains(names, f.Name) {
			return fmt.Errorf("the field %s of %v is not known", f.Name, v.Type())
		}
	}
	return nil
}

// inheritFields copies to dst each exported field of src that a struct of type std
// does not have, as dst was made from one. dst and src point to one type.
func inheritFields(dst, src any, std reflect.Type) {
	d, s := reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem()
	for i := range d.NumField() {
		f := d.Type().Field(i)
		if _, ok := std.FieldByName(f.Name); !ok && f.IsExported() {
			d.Field(i).Set(s.Field(i))
		}
	}
}

// setPrivate sets a field of the struct that p points to, of a type of the standard
// library: methods of its read a few fields that it gives no way to set, and
// would return nil or panic. It reports whether there is such a field of value's
// type; otherwise it does nothing.
func setPrivate[T any](p any, name string, value T) bool {
	f := reflect.ValueOf(p).Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return false
	}
	*(*T)(unsafe.Pointer(f.UnsafeAddr())) = value
	return true
}

// privateFieldsKnown returns an error if the running Go release has moved the
// fields that make methods of callbacks' arguments work.
func privateFieldsKnown() error {
	ctx := context.Background()
	if !setPrivate(new(stdtls.ClientHelloInfo), "ctx", ctx) ||
		!setPrivate(new(stdtls.ClientHelloInfo), "config", new(stdtls.Config)) ||
		!setPrivate(new(stdtls.CertificateRequestInfo), "ctx", ctx) {
		return errors.New("this release of Go keeps the handshake's context elsewhere")
	}
	return nil
}
