"""rqueue: the asyncio-native task queue for Python, built directly on Redis lists."""

from rqueue.app import RQueue
from rqueue.client.client import current_request
from rqueue.client.context import Context, Request
from rqueue.client.job import Job, JobInfo, SyncJob
from rqueue.client.resources import Depends
from rqueue.client.task import Signature, Task
from rqueue.config import Queue
from rqueue.errors import (
    BrokerError,
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
    ResultError,
    ResultNotKept,
    Retry,
    RQueueError,
    SoftTimeLimitExceeded,
    StartupFailed,
    TimeLimitExceeded,
    UnknownTask,
    WaitTimeout,
    WorkerLost,
)
from rqueue.wire.state import State

__version__ = "0.1.0"

__all__ = [
    "BrokerError",
    "BrokerFull",
    "BrokerUnavailable",
    "ConfigError",
    "Context",
    "Depends",
    "EnqueueManyFailed",
    "EnqueueUnknown",
    "Job",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobInfo",
    "JobNotFound",
    "JobRevoked",
    "MalformedMessage",
    "MaxRetriesExceeded",
    "MessageTooLarge",
    "MissingDependency",
    "Queue",
    "RQueue",
    "RQueueError",
    "Request",
    "ResultError",
    "ResultNotKept",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "StartupFailed",
    "State",
    "SyncJob",
    "Task",
    "TimeLimitExceeded",
    "UnknownTask",
    "WaitTimeout",
    "WorkerLost",
    "current_request",
]
