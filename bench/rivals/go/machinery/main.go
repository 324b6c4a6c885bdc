// machinery v2 with its Redis broker and no result backend. A task is removed when it is taken.
package main

import (
	"time"

	"github.com/RichardKnop/machinery/v2"
	"github.com/RichardKnop/machinery/v2/backends/null"
	"github.com/RichardKnop/machinery/v2/brokers/redis"
	"github.com/RichardKnop/machinery/v2/config"
	"github.com/RichardKnop/machinery/v2/locks/eager"
	"github.com/RichardKnop/machinery/v2/log"
	"github.com/RichardKnop/machinery/v2/tasks"

	"ropeway.bench/rivals/program"
)

type producer struct{ *machinery.Server }

func signature(number int) *tasks.Signature {
	return &tasks.Signature{Name: "job", Args: []tasks.Arg{
		{Type: "int64", Value: int64(number)}, {Type: "string", Value: program.Padding},
	}}
}

func (p producer) Send(number int) error {
	_, err := p.SendTask(signature(number))
	return err
}

func (p producer) SendLater(number int, delay time.Duration) error {
	task := signature(number)
	due := time.Now().UTC().Add(delay)
	task.ETA = &due
	_, err := p.SendTask(task)
	return err
}

type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}
func (silent) Fatal(...any)          {}
func (silent) Fatalf(string, ...any) {}
func (silent) Fatalln(...any)        {}
func (silent) Panic(...any)          {}
func (silent) Panicf(string, ...any) {}
func (silent) Panicln(...any)        {}

func server(o program.Options) *machinery.Server {
	settings := &config.Config{DefaultQueue: "rival", Redis: &config.RedisConfig{}}
	if o.Setting == "best" {
		settings.Redis.NormalTasksPollPeriod = 1
		settings.Redis.DelayedTasksPollPeriod = 1
	}
	broker := redis.NewGR(settings, []string{o.Address()}, 0)
	return machinery.NewServer(settings, broker, null.New(), eager.New())
}

func main() {
	log.SetDebug(silent{})
	log.SetInfo(silent{})
	program.Run(
		func(o program.Options) (program.Producer, error) { return producer{server(o)}, nil },
		func(o program.Options, job func(int)) error {
			s := server(o)
			run := func(number int64, _ string) error { job(int(number)); return nil }
			if err := s.RegisterTask("job", run); err != nil {
				return err
			}
			return s.NewWorker("rival", o.Concurrency).Launch()
		},
	)
}
