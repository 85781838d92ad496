package main

import (
	"flag"
	"math"
	"strconv"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/scheduler"
)

// quoteFlags are about the queue before the TEE.
type quoteFlags struct {
	limit *int          // --quote-queue
	takes time.Duration // of one quote, by --quote-rate
}

// maxQuoteQueue leaves connections to those that are to be refused at once.
const maxQuoteQueue = maxConnections / 2

func (q *quoteFlags) register(fs *flag.FlagSet) {
	fs.Func("quote-queue", "", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > maxQuoteQueue {
			return usagef("", "it can be 0 to %d", maxQuoteQueue)
		}
		q.limit = &n
		return nil
	})
	fs.Func("quote-rate", "", func(s string) error {
		rate, err := strconv.ParseFloat(s, 64)
		takes := time.Duration(math.Round(float64(time.Second) / rate))
		if err != nil || !(rate > 0) || takes <= 0 || takes > time.Hour {
			return usagef("", "it is a number of quotes a second")
		}
		q.takes = takes
		return nil
	})
}

func (q *quoteFlags) set() bool { return q.limit != nil || q.takes != 0 }

// wanted reports whether there is to be a queue before the TEE that --attest names.
func (q *quoteFlags) wanted(attest string) bool {
	return q.set() || attest == "configfs" || isTPM(attest)
}

// queue returns a queue before a.
func (q *quoteFlags) queue(a attestext.Attester) (*scheduler.Scheduler, error) {
	o := &scheduler.Options{ServiceTime: q.takes}
	if q.limit != nil {
		o.QueueLimit = *q.limit
		if o.QueueLimit == 0 {
			o.QueueLimit = -1 // none, where zero is the default
		}
	}
	return scheduler.New(a, o)
}
