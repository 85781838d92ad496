package epoch_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/epoch"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/testpki"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	other = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
)

func issuer(t testing.TB, k ed25519.PrivateKey, at time.Time) *epoch.Issuer {
	t.Helper()
	i, err := epoch.NewIssuer(k, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestIDSaysWhenItsEpochBegan(t *testing.T) {
	i := issuer(t, key, start.Add(999*time.Millisecond))
	id := i.ID()
	if len(id) != epoch.Size || bytes.Equal(id, i.ID()) {
		t.Fatalf("%d bytes, or the same ones twice", len(id))
	}
	keys := epoch.Keys{other.Public().(ed25519.PublicKey), i.Public()}
	for _, now := range []time.Time{start.Add(-epoch.Leeway), start, start.Add(1000 * time.Hour)} {
		if got, err := keys.Issued(id, now); err != nil || !got.Equal(start) {
			t.Errorf("at %v: %v, %v", now, got, err)
		}
	}
}

func TestIDThatNobodyVouchesForIsRefused(t *testing.T) {
	i := issuer(t, key, start)
	keys, id := epoch.Keys{i.Public()}, i.ID()
	for n := range id {
		if _, err := keys.Issued(id[:n], start); err == nil {
			t.Fatalf("prefix of %d bytes accepted", n)
		}
		changed := bytes.Clone(id)
		changed[n] ^= 1
		if _, err := keys.Issued(changed, start); err == nil {
			t.Fatalf("accepted with byte %d changed", n)
		}
	}
	for name, c := range map[string]struct {
		keys epoch.Keys
		id   []byte
		now  time.Time
	}{
		"trailing byte": {keys, append(bytes.Clone(id), 0), start},
		"other issuer":  {keys, issuer(t, other, start).ID(), start},
		"no issuer":     {nil, id, start},
		"short key":     {epoch.Keys{i.Public()[1:]}, id, start},
		"future":        {keys, id, start.Add(-epoch.Leeway - time.Second)},
		"far future":    {keys, issuer(t, key, time.Unix(1<<41, 0)).ID(), start},
		"before 1970":   {keys, issuer(t, key, time.Unix(-1, 0)).ID(), start},
	} {
		if _, err := c.keys.Issued(c.id, c.now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := epoch.NewIssuer(nil, nil); err == nil {
		t.Error("no key accepted")
	}
}

func TestKeysTravelInPEM(t *testing.T) {
	i := issuer(t, key, start)
	block, rest := pem.Decode(i.MarshalPEM())
	if block == nil || len(rest) != 0 {
		t.Fatal("no block, or more than one")
	}
	var keys epoch.Keys
	if err := keys.AddPEM(block); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Issued(i.ID(), start); err != nil {
		t.Error(err)
	}
	for name, b := range map[string]*pem.Block{
		"PUBLIC KEY":        {Type: "PUBLIC KEY", Bytes: block.Bytes},
		"P-256":             {Type: epoch.PEMType, Bytes: testpki.SPKI(testpki.Key("P-256"))},
		"nothing":           {Type: epoch.PEMType},
		"a byte behind it":  {Type: epoch.PEMType, Bytes: append(bytes.Clone(block.Bytes), 0)},
		"a byte is missing": {Type: epoch.PEMType, Bytes: block.Bytes[:len(block.Bytes)-1]},
	} {
		if err := keys.AddPEM(b); err == nil || len(keys) != 1 {
			t.Errorf("%s: %v, %d keys", name, err, len(keys))
		}
	}
}

func FuzzIssued(f *testing.F) {
	i, err := epoch.NewIssuer(key, func() time.Time { return start })
	if err != nil {
		f.Fatal(err)
	}
	f.Add(i.ID())
	f.Add([]byte{})
	keys := epoch.Keys{i.Public()}
	f.Fuzz(func(t *testing.T, id []byte) {
		defer fuzzbound.Check(t, len(id))()
		if at, err := keys.Issued(id, start); err == nil && at.After(start.Add(epoch.Leeway)) {
			t.Fatal("of the future")
		}
	})
}
