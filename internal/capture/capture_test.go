package capture

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/testpki"
)

// tap notes what a connection reads and writes.
type tap struct {
	net.Conn
	in, out bytes.Buffer
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.Write(b[:n])
	return n, err
}

func (c *tap) Write(b []byte) (int, error) {
	c.out.Write(b)
	return c.Conn.Write(b)
}

// captured is a handshake of the standard library.
var captured = sync.OnceValue(func() *Capture {
	key := testpki.Key("server")
	leaf := testpki.SelfSigned(&x509.Certificate{NotAfter: time.Now().Add(time.Hour)}, key)
	near, far := net.Pipe()
	go func() {
		tls.Server(far, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}, SessionTicketsDisabled: true,
		}).Handshake()
	}()
	var log bytes.Buffer
	c := &tap{Conn: near}
	if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &log}).Handshake(); err != nil {
		panic(err)
	}
	text := Magic + "\n"
	for line := range strings.Lines(log.String()) {
		if strings.HasPrefix(line, ClientSecret) || strings.HasPrefix(line, ServerSecret) {
			text += "key " + line
		}
	}
	text += fmt.Sprintf("binder server hardened %x\n> %x\n< %x\n", make([]byte, 32), c.out.Bytes(), c.in.Bytes())
	parsed, err := Parse([]byte(text))
	if err != nil {
		panic(err)
	}
	return parsed
})

func messages(items []Item) (types []uint8) {
	for _, it := range items {
		types = append(types, it.Message)
	}
	return types
}

func TestHandshakeOfTheStandardLibraryIsRead(t *testing.T) {
	c := captured()
	client, server, err := c.Items()
	if err != nil {
		t.Fatal(err)
	}
	if got := messages(client); !bytes.Equal(got, []uint8{1, 20}) {
		t.Errorf("the client sent %v", got)
	}
	if got := messages(server); !bytes.Equal(got, []uint8{2, 8, 11, 15, 20}) {
		t.Errorf("the server sent %v", got)
	}
	for _, it := range append(client, server...) {
		if want := it.Message > 2; it.Encrypted != want || it.Size != len(it.Data) {
			t.Errorf("message %d: encrypted %v, %d bytes of %d", it.Message, it.Encrypted, len(it.Data), it.Size)
		}
	}
	// Without keys there are sizes, and with wrong ones an error.
	blind := *c
	blind.ClientSecret, blind.ServerSecret = nil, nil
	if _, server, err = blind.Items(); err != nil || len(server) != 2 && len(server) != 5 || server[1].Data != nil {
		t.Errorf("without keys: %v, %v", server, err)
	}
	wrong := *c
	wrong.ServerSecret = bytes.Repeat([]byte{1}, len(c.ServerSecret))
	if _, _, err := wrong.Items(); !errors.Is(err, attestext.ErrMalformed) || !strings.Contains(err.Error(), "another connection") {
		t.Errorf("with keys of another connection: %v", err)
	}
}

// Each cipher suite of TLS 1.3 is decrypted; crypto/tls lets nobody choose one.
func TestEachCipherSuiteIsDecrypted(t *testing.T) {
	for id, u := range suites {
		secret := bytes.Repeat([]byte{7}, u.size)
		aead, err := u.aead(u.expand(secret, "key", u.key))
		if err != nil {
			t.Fatal(err)
		}
		hello := append(make([]byte, 34), 0, byte(id>>8), byte(id))
		stream := append([]byte{22, 3, 3, 0, byte(4 + len(hello)), 2, 0, 0, byte(len(hello))}, hello...)
		iv := u.expand(secret, "iv", aead.NonceSize())
		for i := range 2 {
			inner := []byte{8, 0, 0, 1, byte(i), 22, 0, 0} // a message, its type, padding
			header := []byte{23, 3, 3, 0, byte(len(inner) + aead.Overhead())}
			nonce := bytes.Clone(iv)
			nonce[len(nonce)-1] ^= byte(i)
			stream = append(append(stream, header...), aead.Seal(nil, nonce, inner, header)...)
		}
		_, server, err := (&Capture{Server: stream, ServerSecret: secret}).Items()
		if err != nil || !bytes.Equal(messages(server), []uint8{2, 8, 8}) || server[2].Data[0] != 1 {
			t.Errorf("suite %#x: %v, %v", id, server, err)
		}
	}
}

func TestCaptureRoundTrip(t *testing.T) {
	c := captured()
	c.Form = FormEarly03
	text := c.Marshal()
	again, err := Parse(text)
	if err != nil || !bytes.Equal(again.Marshal(), text) {
		t.Fatalf("%v", err)
	}
	for n := range len(text) {
		if n < len(text) && text[n] == '\n' {
			continue // whole lines are a capture of less
		}
		if _, err := Parse(text[:n]); err == nil && n > 0 && text[n-1] != '\n' {
			t.Fatalf("the first %d bytes parse", n)
		}
	}
}

func TestMalformedCaptureIsRefused(t *testing.T) {
	random, secret := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for _, tt := range []struct{ text, say string }{
		{"", "first line"},
		{Magic, "first line"},
		{"atls capture 2\n", "first line"},
		{Magic + "\n> 00", "has to end"},
		{Magic + "\n\n", "not a line"},
		{Magic + "\n>\n", "not a line"},
		{Magic + "\n> \n", "0 bytes"},
		{Magic + "\n> 0\n", "0 bytes"},
		{Magic + "\n> 000\n", "hexadecimal"},
		{Magic + "\n> AB\n", "lower case"},
		{Magic + "\n> zz\n", "hexadecimal"},
		{Magic + "\n> 00 00\n", "not a line"},
		{Magic + "\n>  00\n", "not a line"},
		{Magic + "\nkey EXPORTER_SECRET " + random + " " + secret + "\n", "holds no key"},
		{Magic + "\nkey CLIENT_TRAFFIC_SECRET_0 " + random + " " + secret + "\n", "holds no key"},
		{Magic + "\nkey " + ClientSecret + " " + random[2:] + " " + secret + "\n", "31 bytes"},
		{Magic + "\nkey " + ClientSecret + " " + random + " " + secret[2:] + "\n", "31 bytes"},
		{Magic + strings.Repeat("\nkey "+ClientSecret+" "+random+" "+secret, 2) + "\n", "twice"},
		{Magic + "\nkey " + ClientSecret + " " + random + " " + secret + "\nkey " + ServerSecret + " " + secret + " " + secret + "\n", "two connections"},
		{Magic + "\nbinder server hardened 00\n", "1 bytes"},
		{Magic + "\nbinder server expat " + random + "\n", "unknown binding"},
		{Magic + "\nbinder proxy hardened " + random + "\n", "unknown role"},
		{Magic + strings.Repeat("\nbinder server hardened "+random, 2) + "\n", "twice"},
		{Magic + "\nform late\n", "unknown form"},
		{Magic + "\nform early\nform early\n", "one twice"},
		{Magic + strings.Repeat("\n> 00", maxLines+1) + "\n", "lines"},
		{Magic + "\n> " + strings.Repeat("00", MaxSize/2) + "\n", "at most"},
	} {
		if _, err := Parse([]byte(tt.text)); !errors.Is(err, attestext.ErrMalformed) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%.60q: %v, want %q", tt.text, err, tt.say)
		}
	}
}

func TestMalformedStreamIsRefused(t *testing.T) {
	for _, tt := range []struct {
		stream []byte
		say    string
	}{
		{[]byte{22, 2, 0, 0, 0}, "not a record"},
		{[]byte{99, 3, 3, 0, 0}, "unknown type"},
		{[]byte{21, 3, 3, 0, 1, 2}, "alert of 1"},
		{[]byte{22, 3, 3, 0, 4, 1, 0xff, 0, 0}, "at most"},
		{[]byte{22, 3, 3, 0, 4, 0, 0, 0, 0}, "type 0"},
		{[]byte{22, 3, 3, 0, 5, 2, 0, 0, 1, 3}, "ServerHello"},
		{bytes.Repeat([]byte{21, 3, 3, 0, 2, 1, 0}, maxItems+1), "more than"},
		{append([]byte{22, 3, 3, 0xff, 0xff}, make([]byte, 0xffff)...), "not a record"},
	} {
		for _, c := range []*Capture{{Client: tt.stream}, {Server: tt.stream}} {
			if _, _, err := c.Items(); !errors.Is(err, attestext.ErrMalformed) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("%.10x: %v, want %q", tt.stream, err, tt.say)
			}
		}
	}
	if _, server, err := (&Capture{Server: []byte{22, 3, 3, 0}}).Items(); err != nil || len(server) != 1 || server[0].Size != 4 {
		t.Errorf("a capture that ends amid a record: %v, %v", server, err)
	}
}

func FuzzCapture(f *testing.F) {
	f.Add(captured().Marshal())
	f.Add([]byte(Magic + "\nform early\nbinder client early " + strings.Repeat("ab", 32) + "\n"))
	f.Add([]byte(Magic + "\n> 1603030004010000000000\n< 15030300020228\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		c, err := Parse(b)
		if err == nil {
			if again, err := Parse(c.Marshal()); err != nil || !bytes.Equal(again.Marshal(), c.Marshal()) {
				t.Errorf("what is written cannot be read: %v", err)
			}
			_, _, err = c.Items()
		}
		if err != nil && !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("class of %v", err)
		}
	})
}
