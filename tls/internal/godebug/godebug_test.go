package godebug

import "testing"

func TestValueReadsTheEnvironmentLive(t *testing.T) {
	s := New("tlsmlkem")
	for _, tt := range []struct{ env, want string }{
		{"", ""},
		{"tlsmlkem=0", "0"},
		{"tlsmlkem=1,tlsmlkem=0", "0"},
		{"other=1,tlsmlkem=0,last=2", "0"},
		{"xtlsmlkem=0", ""},
		{"tlsmlkem", ""},
		{"tlsmlkem=0#7", "0"},
		{",,tlsmlkem=1,,", "1"},
	} {
		t.Setenv("GODEBUG", tt.env)
		if got := s.Value(); got != tt.want {
			t.Errorf("GODEBUG=%q: %q, want %q", tt.env, got, tt.want)
		}
	}
}
