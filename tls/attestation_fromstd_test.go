package tls

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fill returns a value of type t in which every exported field and element is set.
func fill(t *testing.T, typ reflect.Type) reflect.Value {
	v := reflect.New(typ).Elem()
	switch typ.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(2)
	case reflect.Uint8, reflect.Uint16, reflect.Uint64:
		v.SetUint(3)
	case reflect.String:
		v.SetString("x")
	case reflect.Pointer:
		if typ == reflect.TypeFor[*x509.Certificate]() || typ == reflect.TypeFor[*x509.CertPool]() {
			v.Set(reflect.New(typ.Elem()))
			break
		}
		v.Set(fill(t, typ.Elem()).Addr())
	case reflect.Slice:
		v.Set(reflect.Append(v, fill(t, typ.Elem())))
	case reflect.Array:
		for i := range typ.Len() {
			v.Index(i).Set(fill(t, typ.Elem()))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(typ))
		v.SetMapIndex(fill(t, typ.Key()), fill(t, typ.Elem()))
	case reflect.Struct:
		for i := range typ.NumField() {
			if typ.Field(i).IsExported() {
				v.Field(i).Set(fill(t, typ.Field(i).Type))
			}
		}
	case reflect.Func:
		v.Set(reflect.MakeFunc(typ, func([]reflect.Value) []reflect.Value { panic("called") }))
	case reflect.Interface:
		for _, impl := range []any{new(bytes.Buffer), &net.TCPConn{}, stdtls.NewLRUClientSessionCache(1), "any"} {
			if reflect.TypeOf(impl).Implements(typ) {
				v.Set(reflect.ValueOf(impl))
				return v
			}
		}
		t.Fatalf("nothing implements %v", typ)
	default:
		t.Fatalf("no value for %v", typ)
	}
	return v
}

// same fails the test where two values of types of the two packages differ in what
// they export; functions need only both be set.
func same(t *testing.T, path string, a, b reflect.Value) {
	t.Helper()
	if a.Kind() != b.Kind() {
		t.Errorf("%s: %v and %v", path, a.Type(), b.Type())
		return
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if f := a.Type().Field(i); f.IsExported() && a.Type().PkgPath() != "crypto/x509" {
				if other := b.FieldByName(f.Name); other.IsValid() {
					same(t, path+"."+f.Name, a.Field(i), other)
				} else {
					t.Errorf("%s: %v has no %s", path, b.Type(), f.Name)
				}
			}
		}
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() {
			t.Errorf("%s: %d and %d elements", path, a.Len(), b.Len())
			return
		}
		for i := range a.Len() {
			same(t, path+"[]", a.Index(i), b.Index(i))
		}
	case reflect.Map:
		if a.Len() != b.Len() {
			t.Errorf("%s: %d and %d keys", path, a.Len(), b.Len())
		}
		for _, k := range a.MapKeys() {
			if !b.MapIndex(k).IsValid() {
				t.Errorf("%s: only one has %v", path, k)
				continue
			}
			same(t, path+"[]", a.MapIndex(k), b.MapIndex(k))
		}
	case reflect.Pointer:
		if a.Pointer() != b.Pointer() {
			same(t, "*"+path, a.Elem(), b.Elem())
		}
	case reflect.Func:
		if a.IsNil() != b.IsNil() {
			t.Errorf("%s: only one is nil", path)
		}
	case reflect.Interface:
		if a.Interface() != b.Interface() {
			t.Errorf("%s: %v and %v", path, a, b)
		}
	default:
		if !a.Equal(b.Convert(a.Type())) {
			t.Errorf("%s: %v and %v", path, a, b)
		}
	}
}

// TestFromStdCarriesOrRefusesEveryField sets each exported field of the standard
// Config in turn.
func TestFromStdCarriesOrRefusesEveryField(t *testing.T) {
	refused := []string{"ClientSessionCache", "UnwrapSession", "WrapSession"}
	typ := reflect.TypeFor[stdtls.Config]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		if !typ.Field(i).IsExported() {
			if !slices.Contains([]string{"mutex", "sessionTicketKeys", "autoSessionTicketKeys"}, name) {
				t.Errorf("crypto/tls.Config has a new field %s", name)
			}
			continue
		}
		var std stdtls.Config
		set := fill(t, typ.Field(i).Type)
		reflect.ValueOf(&std).Elem().Field(i).Set(set)
		c, err := FromStd(&std)
		if slices.Contains(refused, name) {
			if err == nil || !strings.Contains(err.Error(), "the field "+name+" of") || c != nil {
				t.Errorf("%s: got %v, error %v, want one that names it", name, c, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, name, set, reflect.ValueOf(c).Elem().FieldByName(name))
	}
}

func TestFromStdOfNothing(t *testing.T) {
	if c, err := FromStd(nil); c != nil || err != nil {
		t.Errorf("FromStd(nil) = %v, %v", c, err)
	}
	c, err := FromStd(&stdtls.Config{})
	if err != nil || !reflect.ValueOf(c).Elem().IsZero() {
		t.Errorf("a zero Config gives %v, %v", c, err)
	}
}

// TestFromStdRefusesFieldsItDoesNotKnow covers those that a later release may add.
func TestFromStdRefusesFieldsItDoesNotKnow(t *testing.T) {
	if err := new(Config).carry("PostQuantumOnly", &stdtls.Config{}); err == nil {
		t.Error("an unknown field is passed by")
	}
	type certificate struct{ Certificate, Delegated []byte }
	if err := onlyFields(&certificate{Certificate: []byte{1}}, "Certificate"); err != nil {
		t.Error(err)
	}
	err := onlyFields(&certificate{Delegated: []byte{1}}, "Certificate")
	if err == nil || !strings.Contains(err.Error(), "Delegated") {
		t.Errorf("got %v, want an error that names the field", err)
	}
}

func TestFromStdTellsTicketKeysApart(t *testing.T) {
	var own stdtls.Config
	own.SetSessionTicketKeys([][32]byte{{1}})
	if _, err := FromStd(&own); err == nil || !strings.Contains(err.Error(), "SetSessionTicketKeys") {
		t.Errorf("keys that cannot be read: error %v", err)
	}
	own.SessionTicketKey = [32]byte{2}
	if _, err := FromStd(&own); err == nil {
		t.Error("keys that are not those of SessionTicketKey are lost")
	}

	// A server that has run keeps keys of SessionTicketKey, and keys of its own.
	for _, key := range [][32]byte{{}, {1}} {
		std := &stdtls.Config{Certificates: stdCertificates(), SessionTicketKey: key}
		handshakeStd(t, std)
		c, err := FromStd(std)
		if err != nil {
			t.Fatalf("after a handshake with the key %x: %v", key, err)
		}
		if key != [32]byte{} && c.SessionTicketKey != key {
			t.Errorf("the key is %x, want %x", c.SessionTicketKey, key)
		}
	}
}

func stdCertificates() []stdtls.Certificate {
	return []stdtls.Certificate{{Certificate: [][]byte{testP256Certificate}, PrivateKey: testP256PrivateKey}}
}

// handshakeStd has a stock server with config serve a stock client.
func handshakeStd(t *testing.T, config *stdtls.Config) {
	t.Helper()
	c, s := localPipe(t)
	defer c.Close()
	defer s.Close()
	done := make(chan error, 1)
	go func() { done <- stdtls.Server(s, config).Handshake() }()
	err := stdtls.Client(c, &stdtls.Config{InsecureSkipVerify: true}).Handshake()
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
}

type ctxKey struct{}

// TestFromStdCallbacksServeAHandshake completes a handshake in which every callback
// but those for Encrypted ClientHello is one of a standard Config.
func TestFromStdCallbacksServeAHandshake(t *testing.T) {
	ctx := context.WithValue(t.Context(), ctxKey{}, "here")
	var mu sync.Mutex
	var called []string
	call := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		called = append(called, name)
	}
	checkHello := func(name string, hello *stdtls.ClientHelloInfo) {
		call(name)
		if hello.ServerName != "test" || len(hello.SignatureSchemes) == 0 || hello.Conn == nil {
			t.Errorf("%s: hello %+v", name, hello)
		}
		if hello.Context().Value(ctxKey{}) != "here" {
			t.Errorf("%s: not the context of the handshake", name)
		}
	}
	checkState := func(name string, cs stdtls.ConnectionState) {
		call(name)
		if cs.Version != stdtls.VersionTLS13 || len(cs.PeerCertificates) != 1 {
			t.Errorf("%s: version %x, %d certificates", name, cs.Version, len(cs.PeerCertificates))
		}
	}
	inner := &stdtls.Config{
		ClientAuth: stdtls.RequireAnyClientCert,
		NextProtos: []string{"inner"},
		MaxVersion: stdtls.VersionTLS13,
		GetCertificate: func(hello *stdtls.ClientHelloInfo) (*stdtls.Certificate, error) {
			checkHello("GetCertificate", hello)
			cert := stdCertificates()[0]
			if err := hello.SupportsCertificate(&cert); err != nil {
				t.Errorf("SupportsCertificate: %v", err)
			}
			return &cert, nil
		},
		VerifyConnection: func(cs stdtls.ConnectionState) error { checkState("server VerifyConnection", cs); return nil },
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error {
			call("server VerifyPeerCertificate")
			return nil
		},
	}
	server, err := FromStd(&stdtls.Config{GetConfigForClient: func(hello *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
		checkHello("GetConfigForClient", hello)
		return inner, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := FromStd(&stdtls.Config{
		ServerName:         "test",
		InsecureSkipVerify: true,
		NextProtos:         []string{"inner"},
		Time:               time.Now,
		GetClientCertificate: func(req *stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) {
			call("GetClientCertificate")
			if req.Context().Value(ctxKey{}) != "here" || req.Version != stdtls.VersionTLS13 {
				t.Errorf("GetClientCertificate: request %+v", req)
			}
			cert := stdCertificates()[0]
			return &cert, req.SupportsCertificate(&cert)
		},
		VerifyConnection: func(cs stdtls.ConnectionState) error { checkState("client VerifyConnection", cs); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}

	c, s := localPipe(t)
	defer c.Close()
	defer s.Close()
	cli, srv := Client(c, client), Server(s, server)
	done := make(chan error, 1)
	go func() { done <- cli.HandshakeContext(ctx) }()
	if err := errors.Join(srv.HandshakeContext(ctx), <-done); err != nil {
		t.Fatal(err)
	}
	want := []string{"GetConfigForClient", "GetCertificate", "client VerifyConnection", "GetClientCertificate",
		"server VerifyPeerCertificate", "server VerifyConnection"}
	slices.Sort(called)
	slices.Sort(want)
	if !slices.Equal(called, want) {
		t.Errorf("called %q, want %q", called, want)
	}

	// Both states export the same keying material, as do both ends.
	cs, ss := cli.ConnectionState(), srv.ConnectionState()
	cstd, sstd := cs.Std(), ss.Std()
	a, err1 := cs.ExportKeyingMaterial("EXPERIMENTAL", []byte("context"), 32)
	b, err2 := cstd.ExportKeyingMaterial("EXPERIMENTAL", []byte("context"), 32)
	d, err3 := sstd.ExportKeyingMaterial("EXPERIMENTAL", []byte("context"), 32)
	if err := errors.Join(err1, err2, err3); err != nil || !bytes.Equal(a, b) || !bytes.Equal(a, d) {
		t.Errorf("keying material %x, %x, %x, error %v", a, b, d, err)
	}
	if cstd.NegotiatedProtocol != "inner" || !cstd.HandshakeComplete {
		t.Errorf("state %+v", cstd)
	}
}

func TestFromStdCallbackErrorsEndTheHandshake(t *testing.T) {
	errNo := errors.New("no")
	for name, std := range map[string]*stdtls.Config{
		"GetConfigForClient": {GetConfigForClient: func(*stdtls.ClientHelloInfo) (*stdtls.Config, error) { return nil, errNo }},
		"GetConfigForClient that FromStd refuses": {GetConfigForClient: func(*stdtls.ClientHelloInfo) (*stdtls.Config, error) {
			return &stdtls.Config{WrapSession: func(stdtls.ConnectionState, *stdtls.SessionState) ([]byte, error) { return nil, nil }}, nil
		}},
		"GetCertificate":              {GetCertificate: func(*stdtls.ClientHelloInfo) (*stdtls.Certificate, error) { return nil, errNo }},
		"GetEncryptedClientHelloKeys": {GetEncryptedClientHelloKeys: func(*stdtls.ClientHelloInfo) ([]stdtls.EncryptedClientHelloKey, error) { return nil, errNo }},
	} {
		c, err := FromStd(std)
		if err != nil {
			t.Fatal(err)
		}
		hello := &ClientHelloInfo{config: c}
		var got any
		switch {
		case c.GetConfigForClient != nil:
			got, err = c.GetConfigForClient(hello)
		case c.GetCertificate != nil:
			got, err = c.GetCertificate(hello)
		default:
			got, err = c.GetEncryptedClientHelloKeys(hello)
		}
		if err == nil || !reflect.ValueOf(got).IsZero() {
			t.Errorf("%s: got %v, error %v", name, got, err)
		}
	}
	if c, _ := FromStd(&stdtls.Config{
		GetConfigForClient: func(*stdtls.ClientHelloInfo) (*stdtls.Config, error) { return nil, nil },
		GetCertificate:     func(*stdtls.ClientHelloInfo) (*stdtls.Certificate, error) { return nil, nil },
	}); c != nil {
		conf, err1 := c.GetConfigForClient(&ClientHelloInfo{config: c})
		cert, err2 := c.GetCertificate(&ClientHelloInfo{config: c})
		if conf != nil || cert != nil || err1 != nil || err2 != nil {
			t.Errorf("nil comes back as %v, %v, %v, %v", conf, cert, err1, err2)
		}
	}
}

// TestFromStdKeepsWhatStdCannotSay: a Config that GetConfigForClient returns must
// not take the settings away that the standard Config has no fields for.
func TestFromStdKeepsWhatStdCannotSay(t *testing.T) {
	type std struct{ A int }
	type ours struct{ A, B, c int }
	dst, src := ours{A: 1}, ours{A: 2, B: 3, c: 4}
	inheritFields(&dst, &src, reflect.TypeFor[std]())
	if want := (ours{A: 1, B: 3}); dst != want {
		t.Errorf("got %+v, want %+v", dst, want)
	}

	c, err := FromStd(&stdtls.Config{GetConfigForClient: func(*stdtls.ClientHelloInfo) (*stdtls.Config, error) {
		return &stdtls.Config{}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	outer := reflect.ValueOf(c).Elem()
	var ourFields []int
	for i := range outer.NumField() {
		f := outer.Type().Field(i)
		if _, ok := reflect.TypeFor[stdtls.Config]().FieldByName(f.Name); f.IsExported() && !ok {
			if f.Type.Kind() == reflect.Pointer {
				outer.Field(i).Set(reflect.New(f.Type.Elem()))
			} else {
				outer.Field(i).Set(fill(t, f.Type))
			}
			ourFields = append(ourFields, i)
		}
	}
	inner, err := c.GetConfigForClient(&ClientHelloInfo{config: c})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ourFields {
		if reflect.ValueOf(inner).Elem().Field(i).IsZero() {
			t.Errorf("%s is lost", outer.Type().Field(i).Name)
		}
	}
}

// fillAs sets each exported field of the struct that p points to that a struct of
// type std has too.
func fillAs(t *testing.T, p any, std reflect.Type) {
	v := reflect.ValueOf(p).Elem()
	for i := range std.NumField() {
		if f := std.Field(i); f.IsExported() {
			to := v.FieldByName(f.Name)
			to.Set(fill(t, to.Type()))
		}
	}
}

func TestStdCarriesTheConnectionState(t *testing.T) {
	var cs ConnectionState
	fillAs(t, &cs, reflect.TypeFor[stdtls.ConnectionState]())
	same(t, "ConnectionState", reflect.ValueOf(cs.Std()), reflect.ValueOf(cs))

	// Where nothing can be exported it is an error, not a panic.
	std := ConnectionState{}.Std()
	if _, err := std.ExportKeyingMaterial("label", nil, 32); err == nil {
		t.Error("a zero ConnectionState exports keying material")
	}
}

func TestStdHelloCarriesEveryField(t *testing.T) {
	hello := ClientHelloInfo{ctx: t.Context()}
	fillAs(t, &hello, reflect.TypeFor[stdtls.ClientHelloInfo]())
	std := hello.std(&stdtls.Config{})
	same(t, "ClientHelloInfo", reflect.ValueOf(*std), reflect.ValueOf(hello))
	if std.Context() != hello.ctx {
		t.Error("the context is lost")
	}
	old := ClientHelloInfo{SupportedVersions: []uint16{VersionTLS12}}
	err := old.std(&stdtls.Config{MinVersion: VersionTLS13}).SupportsCertificate(&stdCertificates()[0])
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("SupportsCertificate judges by another Config: %v", err)
	}

	var req CertificateRequestInfo
	fillAs(t, &req, reflect.TypeFor[stdtls.CertificateRequestInfo]())
	same(t, "CertificateRequestInfo", reflect.ValueOf(*req.std()), reflect.ValueOf(req))
}

func TestSetPrivateChecksNameAndType(t *testing.T) {
	var s struct{ a int }
	if setPrivate(&s, "b", 1) || setPrivate(&s, "a", "1") || setPrivate(&s, "a", int64(1)) || s.a != 0 {
		t.Error("a field of another name or type was set")
	}
	if !setPrivate(&s, "a", 1) || s.a != 1 {
		t.Error("the field was not set")
	}
	if err := privateFieldsKnown(); err != nil {
		t.Error(err)
	}
}
