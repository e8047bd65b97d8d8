"""The spool's entries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.errors import MalformedMessage
from rqueue.results.entry import Entry

IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128).filter(
    lambda id_: id_ != "-"
)


@given(IDS, st.binary().filter(lambda data: b"\n" not in data), st.binary())
def test_an_entry_is_read_as_it_was_written(job_id, record, message):
    """A message may hold line ends, one from another producer for example. Breaks when it is cut at one."""
    entry = Entry(job_id, record, message)
    assert Entry.decode(entry.encode()) == entry


@pytest.mark.parametrize("data", [b"", b"x", b"a\nb", b"\n\n", b"two words\n{}\n", b"-\n{}\n", b"\xff\n{}\n"])
def test_what_is_no_entry_is_refused(data):
    """Breaks when it raises what nobody catches, or is taken for a job."""
    with pytest.raises(MalformedMessage):
        Entry.decode(data)
