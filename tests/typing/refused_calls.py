"""What a type checker must refuse, each line with the error that it is. Never run.

`make types` holds it by itself: an ignore that silences nothing is an error there. `test_typing.py` takes the ignores
away and compares what is left line by line.
"""

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from rqueue import Context, Depends, RQueue

app = RQueue("memory://")


@app.task
async def asynchronous(a: int, b: str = "") -> int:
    return a + len(b)


@app.task(max_retries=3)
def synchronous(a: int, *, flag: bool = False) -> str:
    return str(a) * flag


@app.task(bind=True)
def bound(self: Context, a: int) -> float:
    return a / (self.request.retries + 1)


def provides_text() -> str:
    return "text"


@app.task
async def with_a_wrong_resource(number: int = Depends(provides_text)) -> None: ...  # type: ignore[assignment]


@app.on_startup  # type: ignore[type-var]
async def takes_one(number: int) -> None: ...


RQueue(lifespan=provides_text)  # type: ignore[arg-type]


async def wrong_arguments() -> None:
    await asynchronous.enqueue("1")  # type: ignore[arg-type]
    await asynchronous.enqueue(1, 2)  # type: ignore[arg-type]
    await asynchronous.enqueue()  # type: ignore[call-arg]
    await asynchronous.enqueue(1, c="x")  # type: ignore[call-arg]
    await synchronous.enqueue(1, True)  # type: ignore[call-arg]
    await synchronous.options(priority=9).enqueue("1")  # type: ignore[arg-type]
    await bound.enqueue("1")  # type: ignore[arg-type]
    await bound.enqueue(Context, 1)  # type: ignore[call-arg, arg-type]
    asynchronous.s(None)  # type: ignore[arg-type]
    synchronous.delay(b"1")  # type: ignore[arg-type]
    await asynchronous.enqueue_in(AsyncSession(), "1")  # type: ignore[arg-type]
    await asynchronous.enqueue_in(Session(), 1)  # type: ignore[arg-type]
    synchronous.delay_in(AsyncSession(), 1)  # type: ignore[arg-type]
    synchronous.delay_in(Session())  # type: ignore[call-arg]
    bound.s(a="1")  # type: ignore[arg-type]
    asynchronous.options(queue="email").s()  # type: ignore[call-arg]


async def wrong_options() -> None:
    asynchronous.options(priorty=9)  # type: ignore[call-arg]
    asynchronous.options(priority="9")  # type: ignore[arg-type]
    asynchronous.options(countdown="10")  # type: ignore[arg-type]
    asynchronous.options(eta=10)  # type: ignore[arg-type]
    asynchronous.options(queue="email").options(time=1)  # type: ignore[call-arg]
    synchronous.apply_async((1,), priorty=9)  # type: ignore[call-arg]
    app.task(max_retrys=3)  # type: ignore[call-overload]
    app.task(time_limit="30")  # type: ignore[call-overload]
    asynchronous.options(soft_time_limit="30")  # type: ignore[arg-type]
    asynchronous.options(unique="always")  # type: ignore[arg-type]
    asynchronous.options(debounce="5")  # type: ignore[arg-type]
    app.task(queue=3)  # type: ignore[call-overload]
    app.task(autoretry_for=ConnectionError)  # type: ignore[call-overload]
    app.task(throws=[KeyError])  # type: ignore[call-overload]
    app.task(bind=1)  # type: ignore[call-overload]


async def wrong_results() -> None:
    text: str = await (await asynchronous.enqueue(1)).result()  # type: ignore[assignment]
    number: int = synchronous.delay(1).get(text)  # type: ignore[assignment, arg-type]
    await app.enqueue_many([asynchronous])  # type: ignore[list-item]
    await app.enqueue(number)  # type: ignore[arg-type]
