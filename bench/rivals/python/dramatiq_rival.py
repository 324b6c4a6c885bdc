"""Dramatiq on Redis, threads. Acknowledged after the run; a worker's heartbeat lasts 60 s."""

import dramatiq
import program
from dramatiq.brokers.redis import RedisBroker

o = program.options()
broker = RedisBroker(url=o.url)
dramatiq.set_broker(broker)
body = program.plain_body(o)


@dramatiq.actor(actor_name="job")
def job(number, padding):
    body(number)


class Client(program.Client):
    def send(self, number):
        job.send(number, program.PADDING)

    def send_later(self, number, delay_s):
        job.send_with_options(args=(number, program.PADDING), delay=int(delay_s * 1000))


if __name__ == "__main__":
    if o.command == "work":
        processes = 2 if o.setting == "best" else 1
        threads = str(max(1, o.concurrency // processes))
        program.become(o, "dramatiq", "dramatiq_rival", "-p", str(processes), "-t", threads)
    program.enqueue(o, Client())
