// Package program is the part that every Go program here shares: the command line that the harness
// speaks, the ways of enqueueing, the bodies of the job and the ledger. bench/README.md describes it.
package program

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	// First is the number of the first job; with Padding, the arguments are 142 bytes of JSON.
	First   = 1_000_000
	batch   = 1_000
	warmUp  = 20
	begun   = 0xFFFFFFFF // length in a record of a job that has begun and not ended
	slowJob = 20 * time.Millisecond
)

// Padding fills the arguments up to a usual size.
var Padding = strings.Repeat("x", 130)

// Options are those of the command line.
type Options struct {
	URL, Setting, Mode, Task, Ledger, Sent string
	Jobs, Callers, Concurrency             int
	Seconds, Rate                          float64
	Delay                                  time.Duration
	Ranked                                 bool
}

// Address is host:port of the URL.
func (o Options) Address() string {
	_, rest, _ := strings.Cut(o.URL, "://")
	return strings.Split(rest, "/")[0]
}

// A Producer enqueues; it may also be one or more of the following.
type Producer interface{ Send(number int) error }
type bulk interface{ SendMany(numbers []int) error }
type later interface {
	SendLater(number int, delay time.Duration) error
}
type ranked interface{ SendRanked(number, rank int) error }

// Run does what the command line says and ends the process.
func Run(open func(Options) (Producer, error), work func(Options, func(number int)) error) {
	if len(os.Args) < 2 {
		fail("say enqueue or work")
	}
	var o Options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.URL, "url", "", "")
	flags.StringVar(&o.Setting, "setting", "", "")
	flags.StringVar(&o.Mode, "mode", "single", "")
	flags.StringVar(&o.Task, "task", "noop", "")
	flags.StringVar(&o.Ledger, "ledger", "", "")
	flags.StringVar(&o.Sent, "sent", "", "")
	flags.IntVar(&o.Jobs, "jobs", 1, "")
	flags.IntVar(&o.Callers, "callers", 50, "")
	flags.IntVar(&o.Concurrency, "concurrency", 10, "")
	flags.Float64Var(&o.Seconds, "seconds", 600, "")
	flags.Float64Var(&o.Rate, "rate", 200, "")
	flags.DurationVar(&o.Delay, "delay", 0, "")
	flags.BoolVar(&o.Ranked, "ranked", false, "")
	check(flags.Parse(os.Args[2:]))
	if os.Args[1] == "work" {
		check(work(o, body(o)))
		return
	}
	o.Ranked = o.Ranked || o.Mode == "ranked"
	producer, err := open(o)
	check(err)
	sent, seconds := enqueue(o, producer)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"jobs": sent, "seconds": seconds}))
	os.Exit(0)
}

// UntilStopped waits for SIGTERM or SIGINT.
func UntilStopped() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

func unsupported(why string) {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"unsupported": why})
	os.Exit(3)
}

// now is CLOCK_MONOTONIC in nanoseconds, which all processes of a host share.
func now() int64 {
	var spec syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&spec)), 0)
	return spec.Nano()
}

// -- enqueueing ----------------------------------------------------------------------------------

func enqueue(o Options, producer Producer) (int, float64) {
	many, canMany := producer.(bulk)
	switch o.Mode {
	case "single":
		check(producer.Send(First - 1))
		return callers(o, producer, 1)
	case "concurrent":
		for range o.Callers {
			check(producer.Send(First - 1))
		}
		return callers(o, producer, o.Callers)
	case "bulk":
		if !canMany {
			unsupported("no bulk call")
		}
		check(many.SendMany([]int{First - 1}))
		return inBulk(o, many)
	case "fill":
		if canMany {
			return inBulk(o, many)
		}
		return callers(o, producer, o.Callers)
	case "paced", "delayed":
		return paced(o, producer)
	case "ranked":
		to, ok := producer.(ranked)
		if !ok {
			unsupported("no priorities")
		}
		start := time.Now()
		for i := range o.Jobs {
			check(to.SendRanked(First+i, i%3))
		}
		return o.Jobs, time.Since(start).Seconds()
	}
	fail("unknown mode " + o.Mode)
	return 0, 0
}

func callers(o Options, producer Producer, count int) (int, float64) {
	var next, done atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	limit := start.Add(time.Duration(o.Seconds * 1e9))
	for range count {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				i := int(next.Add(1)) - 1
				if i >= o.Jobs || time.Now().After(limit) {
					return
				}
				check(producer.Send(First + i))
				done.Add(1)
			}
		}()
	}
	group.Wait()
	return int(done.Load()), time.Since(start).Seconds()
}

func inBulk(o Options, producer bulk) (int, float64) {
	start := time.Now()
	sent := 0
	for sent < o.Jobs && time.Since(start).Seconds() < o.Seconds {
		numbers := make([]int, 0, batch)
		for len(numbers) < batch && sent+len(numbers) < o.Jobs {
			numbers = append(numbers, First+sent+len(numbers))
		}
		check(producer.SendMany(numbers))
		sent += len(numbers)
	}
	return sent, time.Since(start).Seconds()
}

// paced sends at fixed times, and writes into a file when each job was sent or, delayed, was due.
func paced(o Options, producer Producer) (int, float64) {
	to, canLater := producer.(later)
	if o.Mode == "delayed" && !canLater {
		unsupported("no delayed jobs")
	}
	if o.Mode == "paced" {
		for i := range warmUp {
			check(producer.Send(First - warmUp + i))
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
	}
	times := make([]int64, o.Jobs)
	start := time.Now()
	for i := range times {
		time.Sleep(time.Until(start.Add(time.Duration(float64(i) / o.Rate * 1e9))))
		times[i] = now() + int64(o.Delay)
		if o.Mode == "delayed" {
			check(to.SendLater(First+i, o.Delay))
		} else {
			check(producer.Send(First + i))
		}
	}
	seconds := time.Since(start).Seconds()
	file, err := os.Create(o.Sent)
	check(err)
	check(binary.Write(file, binary.LittleEndian, times))
	check(file.Close())
	return o.Jobs, seconds
}

// -- the job -------------------------------------------------------------------------------------

// body is what a job does: one record of the ledger at its end, one more at the start of a slow job.
func body(o Options) func(number int) {
	file, err := os.OpenFile(o.Ledger, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	check(err)
	write := func(start int64, number int, length uint32) {
		var record [16]byte
		binary.LittleEndian.PutUint64(record[:], uint64(start))
		binary.LittleEndian.PutUint32(record[8:], uint32(number))
		binary.LittleEndian.PutUint32(record[12:], length)
		_, err := file.Write(record[:])
		check(err)
	}
	end := func(start int64, number int) { write(start, number, uint32((now()-start)/1000)) }
	block := make([]byte, 128*1024)
	switch o.Task {
	case "noop":
		return func(number int) { write(now(), number, 0) }
	case "sleep1ms":
		return func(number int) {
			start := now()
			time.Sleep(time.Millisecond)
			end(start, number)
		}
	case "cpu":
		return func(number int) {
			start := now()
			_ = sha256.Sum256(block)
			end(start, number)
		}
	case "slow":
		return func(number int) {
			start := now()
			write(start, number, begun)
			time.Sleep(slowJob)
			end(start, number)
		}
	}
	fail("unknown task " + o.Task)
	return nil
}
