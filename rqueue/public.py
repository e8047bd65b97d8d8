"""The names of ``import rqueue``: all that a program needs of it."""

from rqueue.app import RQueue
from rqueue.client.context import Context, Request, current_request
from rqueue.client.events import Event, Events
from rqueue.client.job import Job, JobInfo, SyncJob
from rqueue.client.pauses import Pause, Resumed
from rqueue.client.resources import Depends
from rqueue.client.revocation import Cancellations, Cancelled
from rqueue.client.schedules import ScheduleInfo
from rqueue.client.signals import JobOutcome
from rqueue.client.task import Signature, Task
from rqueue.config import Queue
from rqueue.errors import (
    BrokerError,
    BrokerForbidden,
    BrokerFull,
    BrokerUnavailable,
    ConfigError,
    EnqueueManyFailed,
    EnqueueUnknown,
    JobError,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobRevoked,
    MalformedMessage,
    MaxRetriesExceeded,
    MessageTooLarge,
    MissingDependency,
    Reject,
    ResultError,
    ResultNotKept,
    Retry,
    RQueueError,
    ScheduleNotFound,
    Signal,
    Snooze,
    SoftTimeLimitExceeded,
    StartupFailed,
    TimeLimitExceeded,
    UnknownTask,
    WaitTimeout,
    WorkerLost,
)
from rqueue.policy.periodic import cron, every
from rqueue.wire.history import PastError
from rqueue.wire.state import State

__all__ = [
    "BrokerError",
    "BrokerForbidden",
    "BrokerFull",
    "BrokerUnavailable",
    "Cancellations",
    "Cancelled",
    "ConfigError",
    "Context",
    "Depends",
    "EnqueueManyFailed",
    "EnqueueUnknown",
    "Event",
    "Events",
    "Job",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobInfo",
    "JobNotFound",
    "JobOutcome",
    "JobRevoked",
    "MalformedMessage",
    "MaxRetriesExceeded",
    "MessageTooLarge",
    "MissingDependency",
    "PastError",
    "Pause",
    "Queue",
    "RQueue",
    "RQueueError",
    "Reject",
    "Request",
    "ResultError",
    "ResultNotKept",
    "Resumed",
    "Retry",
    "ScheduleInfo",
    "ScheduleNotFound",
    "Signal",
    "Signature",
    "Snooze",
    "SoftTimeLimitExceeded",
    "StartupFailed",
    "State",
    "SyncJob",
    "Task",
    "TimeLimitExceeded",
    "UnknownTask",
    "WaitTimeout",
    "WorkerLost",
    "cron",
    "current_request",
    "every",
]
