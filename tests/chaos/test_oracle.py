"""oracle: what processes wrote outside Redis, read while they write."""

from .oracle import Oracle

INTENT = "intent m.1 7 1.0 quick default 0.0\n"


def test_it_reads_what_was_added_and_only_whole_lines(tmp_path):
    log, oracle = tmp_path / "producer-7.log", Oracle(tmp_path)
    log.write_text(INTENT + "confirmed m.1 7 1.5 def")
    oracle.read()
    assert (oracle.sent["m.1"].kind, oracle.confirmed) == ("quick", {})
    log.write_text(INTENT + "confirmed m.1 7 1.5 default job-1\n")
    oracle.read()
    assert (oracle.confirmed["m.1"].job_id, oracle.confirmed["m.1"].confirmed) == ("job-1", 1.5)


def test_runs_of_two_processes_and_whose_children_they_are(tmp_path):
    (tmp_path / "runs-8.log").write_text("born - 8 0.5 2\nstart m.1 8 1.0 a\nend m.1 8 2.0 a\nstart m.2 8 3.0 b\n")
    (tmp_path / "runs-9.log").write_text("born - 9 0.5 2\nstart m.1 9 4.0 c\nfail m.1 9 5.0 c\n")
    oracle = Oracle(tmp_path)
    oracle.read()
    assert [(run.pid, run.ended) for run in oracle.ends("m.1")] == [(8, 2.0)], "a failure is no good end"
    assert oracle.ends("m.2") == []
    assert (oracle.parents, oracle.first) == ({8: 2, 9: 2}, {8: 1.0, 9: 4.0})


def test_a_process_with_the_number_of_one_that_is_gone_has_a_first_job_of_its_own(tmp_path):
    (tmp_path / "runs-8.log").write_text("born - 8 0.5 2\nstart m.1 8 1.0 a\nborn - 8 9.0 3\nstart m.2 8 9.5 b\n")
    oracle = Oracle(tmp_path)
    oracle.read()
    assert (oracle.parents[8], oracle.first[8]) == (3, 9.5)
