package accept

import (
	"context"
	"io"
	"net"
	"time"
)

const (
	// lingerTime bounds how long Linger takes, and lingerBytes how much it reads.
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// Linger closes this side's half of c and waits until the peer has closed the other one,
// for a second at most, or until ctx is done. It is for who has said the last, such as an
// alert, and may have bytes to read still: to close with bytes unread would have TCP reset
// the connection, and the peer might never read it. The caller closes c. Where c cannot be
// closed by halves there is nothing to wait for.
func Linger(ctx context.Context, c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lingerTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	if n, _ := io.Copy(io.Discard, io.LimitReader(c, lingerBytes)); n == lingerBytes {
		<-ctx.Done() // a peer that sends on is made to wait by TCP
	}
}
