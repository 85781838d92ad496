package execplugin

import (
	"errors"
	"strings"
)

// Split splits a command line into words as a POSIX shell does, and does nothing
// else that a shell does: it knows blanks, single quotes, double quotes and the
// backslash, and takes every other character for itself. A line without a word is
// an error, and so is a quote that is not closed.
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; ch {
		case ' ', '\t', '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
			continue
		case '\'':
			end := strings.IndexByte(line[i+1:], '\'')
			if end < 0 {
				return nil, errors.New("single quote is not closed")
			}
			word.WriteString(line[i+1:][:end])
			i += end + 1
		case '"':
			for i++; ; i++ {
				if i >= len(line) {
					return nil, errors.New("double quote is not closed")
				}
				if line[i] == '"' {
					break
				}
				// Between double quotes a backslash stands for itself, but before these.
				if line[i] == '\\' && i+1 < len(line) && strings.IndexByte("$`\"\\\n", line[i+1]) >= 0 {
					i++
					if line[i] == '\n' {
						continue
					}
				}
				word.WriteByte(line[i])
			}
		case '\\':
			if i++; i >= len(line) {
				return nil, errors.New("backslash at the end")
			}
			if line[i] == '\n' {
				continue // a line that goes on
			}
			word.WriteByte(line[i])
		default:
			word.WriteByte(ch)
		}
		inWord = true
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("no command")
	}
	return words, nil
}
