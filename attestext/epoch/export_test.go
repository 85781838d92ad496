package epoch

import "time"

// Timeout is what bounds a request of c.
func (c *Client) Timeout() *time.Duration { return &c.http.Timeout }
