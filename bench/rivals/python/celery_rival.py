"""Celery on Redis, prefork. Acknowledged before the run, or after it in the setting `late`."""

import program
from celery import Celery

o = program.options()
app = Celery("celery_rival", broker=o.url)
app.conf.task_acks_late = o.setting == "late"
if o.ranked:
    app.conf.broker_transport_options = {"queue_order_strategy": "priority"}
    app.conf.worker_prefetch_multiplier = 1
elif o.setting == "best":
    app.conf.worker_prefetch_multiplier = 100
body = program.plain_body(o)


@app.task(name="job")
def job(number, padding):
    body(number)


class Client(program.Client):
    def send(self, number):
        job.delay(number, program.PADDING)

    def send_later(self, number, delay_s):
        job.apply_async((number, program.PADDING), countdown=delay_s)

    def send_ranked(self, number, rank):
        job.apply_async((number, program.PADDING), priority=(9, 6, 0)[rank])


if __name__ == "__main__":
    if o.command == "work":
        quiet = ("--without-gossip", "--without-mingle") if o.setting == "best" else ()
        command = ("celery", "-A", "celery_rival", "worker", "-l", "warning", *quiet)
        program.become(o, *command, "-c", str(o.concurrency))
    program.enqueue(o, Client())
