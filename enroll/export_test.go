package enroll

var (
	ReadFrame   = readFrame
	WriteFrame  = writeFrame
	ParseReply  = parseReply
	ParseCSR    = parseRequest
	ReadIssued  = readIssued
	ParseGreet  = parseGreeting
	WaitForNext = wait
	Network     = network
)

// ClaimOf returns what a rule would compare, empty if there is nothing.
func ClaimOf(claims map[string]any, path string) string {
	s, err := newSubject("affirming", "", claims)
	if err != nil {
		return err.Error()
	}
	v, _ := s.claim(path)
	return v
}
