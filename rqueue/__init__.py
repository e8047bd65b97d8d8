"""rqueue: the asyncio-native task queue for Python, built directly on Redis lists."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rqueue.public import *  # noqa: F403
    from rqueue.public import __all__ as __all__
else:
    # A supervisor needs neither the client nor a Redis library, and yet runs this file: with them it is twice its size.
    def __getattr__(name: str) -> Any:
        """Load the public names when the first of them is asked for."""
        import rqueue.public as public  # noqa: PLR0402 - "from rqueue" would ask this function for it

        globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), *globals()})
