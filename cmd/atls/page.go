package main

import (
	"bufio"
	"bytes"
	"html/template"
	"io"
	"net/http"
	"time"
)

// maxRequest bounds the request that a page answers, in bytes.
const maxRequest = 64 << 10

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<title>atls</title>
<h1>atls</h1>
<p>{{.Version}}, {{.Suite}}, {{.Group}}, mode {{.Mode}}, {{.Credential}}, {{.Binding}}.</p>
{{if .SelfAttested}}<p>This server sent evidence of what it runs. Whether it was accepted is for your end to say, and not for this page.</p>
{{else}}<p><b>This server sent no evidence</b>: {{if .Attester}}your client did not ask for any, or asked for what this server does not have{{else}}it
does not attest{{end}}. A browser with a padlock has checked a certificate. That says whose server this is, and nothing about what it runs,
in whose hands the machine is, or whether this page is true.</p>{{end}}
{{with .Peer}}{{if .Attested}}<p>Your end attested. Verdict: <b>{{.Verdict}}</b>.</p>
<table>{{range $name, $value := .Claims}}<tr><td>{{$name}}<td>{{$value}}
{{end}}</table>{{else}}<p>Your end was asked to attest and <b>did not</b>. It was let in all the same, and this server knows nothing of what it
runs.</p>{{end}}{{else}}<p>Your end was not asked to attest.</p>{{end}}
{{with .Binder}}<p>Channel binder: <code>{{.}}</code></p>{{end}}
`))

// servePage answers one HTTP request with a page about the connection.
func (s *session) servePage(f *connFlags) error {
	s.conn.SetDeadline(time.Now().Add(f.timeout))
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(readerOnly{s}, maxRequest)))
	if err != nil {
		return err
	}
	var body bytes.Buffer
	shown := struct {
		*report
		Attester bool // there is one
	}{s.report(f, nil), f.attest != ""}
	if err := page.Execute(&body, shown); err != nil {
		return err
	}
	resp := &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: req, Close: true,
		Header:        http.Header{"Content-Type": {"text/html; charset=utf-8"}, "Content-Security-Policy": {"default-src 'none'"}},
		ContentLength: int64(body.Len()),
		Body:          io.NopCloser(&body),
	}
	if err := resp.Write(s.conn); err != nil {
		return err
	}
	if err := s.conn.CloseWrite(); err != nil {
		return err
	}
	s.linger() // for what came after the request
	return nil
}
