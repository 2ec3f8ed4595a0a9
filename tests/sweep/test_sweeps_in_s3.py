"""Sweeps into a bucket of a server that speaks S3, on this machine: the same rows, and nothing lost on the way."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from commands import mupcheck
from tiny_sweeps import assert_same, numbers, tiny, tiny_coord, trained

from mupcheck.results.reading import finished_runs, load_results
from mupcheck.results.stores import beside, lease
from mupcheck.results.stores.address import mirror_of
from mupcheck.results.stores.objects import open_store
from mupcheck.sweep.plan import plan_sweep

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

OUT = "s3://bucket/results"
TINY = """
kind = "lr"
name = "tiny"
data = "synthetic"
vocab_size = 32
widths = [16, 32]
steps = 4
parametrizations = ["sp", "gdn-mup"]
lrs = [0.00390625, 0.015625]
seeds = 1
eval_tokens = 64
batch_size = 2
seq_len = 16
n_layers = 1
readout_std = 0.25
"""
HERE = ("--device", "cpu", "--jobs", "1")


class Bucket:
    """A bucket, its server, and the machine that talks to it."""

    def __init__(self, monkeypatch, tmp_path):
        self.monkeypatch, self.tmp_path = monkeypatch, tmp_path
        self.serve(0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.endpoint)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # who is gone here does not come back
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }.items():
            monkeypatch.setenv(name, value)
        self.machine("one")
        self.ask("reset")  # servers of one process have the same buckets
        self.system.mkdir("bucket")

    def serve(self, port):
        """Start a server, and forget what was connected to the one before."""
        self.server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port)
        self.server.start()
        self.endpoint = "http://{}:{}".format(*self.server.get_host_and_port())
        vars(self).pop("system", None)

    def ask(self, what, data=b""):
        """Ask something of the server itself."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/{what}", data, method="POST")).read()

    @cached_property
    def system(self):  # once: a client takes half a second to make
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    def machine(self, name):
        """Be another machine from here on."""
        self.monkeypatch.setenv("MUPCHECK_CACHE", str(self.tmp_path / name))

    def runs(self, sweep="tiny"):
        return {
            key.rpartition("/")[2].removesuffix(".parquet")
            for key in self.system.glob(f"bucket/results/{sweep}/runs/*")
        }


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr(beside, "EVERY", 0.2)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = Bucket(monkeypatch, tmp_path)
    yield made
    made.server.stop()


def untrained(*arguments, **options):
    raise AssertionError("something was trained")


def assert_losses_same(results, done):
    """Compare all but grad_norm, whose last digit depends on the runs beside a run, bit for bit."""
    one, other = numbers(results), numbers(done[1])
    for tables in (one, other):
        tables[1] = tables[1].drop(columns="grad_norm")
    assert_same(one, other)


def cli(*arguments, **environment):
    return mupcheck(*arguments, **environment)


# --- the same rows ----------------------------------------------------------------------------------------------------


def test_a_sweep_in_a_bucket_is_the_one_in_a_folder(bucket, done):
    results, progress = trained(tiny(), OUT, jobs=1)
    assert_same(numbers(results), numbers(done[1]))
    assert progress[-1].error is None
    names = {key.removeprefix("bucket/results/tiny/") for key in bucket.system.find("bucket/results/tiny")}
    ids = set(results.runs["run_id"])
    assert names == {"sweep.json", *(f"{table}/{run_id}.parquet" for table in ("runs", "steps") for run_id in ids)}
    # who knows nothing of mupcheck reads one table
    runs = pd.read_parquet(f"{OUT}/tiny/runs", storage_options={"client_kwargs": {"endpoint_url": bucket.endpoint}})
    assert set(runs["run_id"]) == ids
    bucket.machine("other")
    assert_same(numbers(load_results(OUT)), numbers(done[1]))
    again, _ = trained(tiny(), OUT, jobs=1)
    pd.testing.assert_frame_equal(again.runs, results.runs)  # times included: nothing was trained
    # another spec of the name sets its runs aside, there too
    fewer, _ = trained(tiny(parametrizations=("sp",)), OUT, jobs=1)
    assert bucket.runs() == set(fewer.runs["run_id"]) < ids
    assert {key.split("/")[-1] for key in bucket.system.glob("bucket/results/tiny/earlier/runs/*")} == {
        f"{run_id}.parquet" for run_id in ids - bucket.runs()
    }


def test_check_and_plot_say_of_an_address_what_they_say_of_the_folder(bucket, tmp_path):
    trained(tiny_coord(parametrizations=("sp",)), OUT, jobs=1)
    folder = tmp_path / "results"
    shutil.copytree(mirror_of(f"{OUT}/tiny"), folder / "tiny", ignore=shutil.ignore_patterns(".*"))
    bucket.machine("other")
    one, other = (cli("check", path, "--json") for path in (f"{OUT}/tiny", folder / "tiny"))
    assert (one.code, one.out) == (other.code, other.out)
    assert one.out
    drawn = cli("plot", OUT, "--only", "slopes*", "--json")
    assert drawn.code == 0, drawn.err
    pictures = {Path(file).name for file in drawn.json}
    assert {key.rpartition("/")[2] for key in bucket.system.glob("bucket/results/tiny/figures/*")} == pictures
    assert pictures
    assert f"the figures are in {OUT} too" in drawn.err
    refused = cli("plot", folder, "--out", "s3://bucket/figures")
    assert refused.code == 2
    assert "is an address, and this takes a path on this machine" in refused.err


# --- interrupted ------------------------------------------------------------------------------------------------------


def test_a_killed_driver_s_sweep_goes_on_elsewhere_from_what_was_sent(bucket, done, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    slow = "import sys, time, mupcheck.sweep.group as group; write = group.write_run\n"
    slow += "group.write_run = lambda *a, **k: (time.sleep(0.7), write(*a, **k)); group.WRITERS = 1\n"
    slow += "from mupcheck.cli.app import main; main()"
    command = [sys.executable, "-c", slow, "run", str(tmp_path / "tiny.toml"), "--out", OUT, *HERE, "--exact"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 100
    while len(bucket.runs()) < 2:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    sent = bucket.runs()
    bucket.machine("other")
    plan = plan_sweep(tiny(), out=OUT)
    assert {run.run_id for group in plan.groups for run in group} == {run.run_id for run in plan.runs} - sent
    assert 0 < plan.missing < 8
    results, _ = trained(tiny(), OUT, jobs=1)
    assert_losses_same(results, done)
    assert len(bucket.runs()) == 8


def test_a_server_that_goes_is_said_and_what_is_finished_is_sent_by_the_next_call(bucket, done, monkeypatch, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    command = ("run", tmp_path / "tiny.toml", "--out", OUT, *HERE)
    monkeypatch.setattr(beside, "PATIENCE", 0.5)
    from mupcheck.sweep import runner

    trains, gone = runner.run_group, []

    def going(*arguments, **options):
        if not gone:
            gone.append(bucket.server.get_host_and_port()[1])
            bucket.server.stop()
        return trains(*arguments, **options)

    monkeypatch.setattr(runner, "run_group", going)
    answer = cli(*command)
    assert answer.code == 4
    (failed,) = [line for line in answer.err.splitlines() if line.startswith("failed: ")]
    assert "8 runs are not in s3://bucket/results/tiny yet and kept in" in failed
    assert "Could not connect" in failed
    assert "Traceback" not in answer.err
    assert ": the best lr of width" in answer.out, "the answer is there all the same"
    assert_same(numbers(load_results(mirror_of(f"{OUT}/tiny"))), numbers(done[1]))
    # nobody answers now: nothing is trained, nothing is lost
    for words in (command, ("check", OUT)):
        nobody = cli(*words)
        assert nobody.code == 4
        assert "does not answer" in nobody.err.splitlines()[-1]
    assert len(finished_runs(mirror_of(f"{OUT}/tiny"))) == 8
    bucket.serve(gone[0])
    if not bucket.system.exists("bucket"):
        bucket.system.mkdir("bucket")
    monkeypatch.setattr(runner, "run_group", untrained)
    answer = cli(*command)
    assert answer.code in (0, 3), answer.err
    assert len(bucket.runs()) == 8


def test_a_truncated_object_is_named_and_its_run_trained_anew(bucket, done, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    trained(tiny(), OUT, jobs=1)
    key = sorted(bucket.system.glob("bucket/results/tiny/steps/*"))[0]
    whole = bucket.system.cat_file(key)
    bucket.system.pipe_file(key, whole[: len(whole) // 2])
    bucket.machine("other")
    for words in (("check", f"{OUT}/tiny"), ("run", tmp_path / "tiny.toml", "--out", OUT, *HERE)):
        answer = cli(*words)
        assert f"s3://{key} is damaged (it does not match its hash in the run's row) and not used" in answer.err
    assert "1 of 8 runs to train" in answer.err
    assert_losses_same(load_results(OUT), done)
    bucket.machine("last")
    assert_losses_same(load_results(OUT), done)


# --- two calls at once ------------------------------------------------------------------------------------------------


def test_a_second_call_is_refused_and_trains_nothing(bucket, monkeypatch, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    first = lease.take(open_store(f"{OUT}/tiny"))
    assert first.key, "S3 takes conditional puts"
    monkeypatch.setattr(lease, "RENEWED", 0.05)
    monkeypatch.setattr("mupcheck.sweep.runner.run_group", untrained)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    ended = []

    def live():
        while not ended:
            first.renew()
            time.sleep(0.05)

    thread = Thread(target=live)
    thread.start()
    try:
        answer = cli("run", tmp_path / "tiny.toml", "--out", OUT, *HERE)
    finally:
        ended.append(True)
        thread.join()
    assert answer.code == 2
    *_, waits, refused = answer.err.splitlines()
    assert waits.startswith("another call may train this sweep (host ")
    assert refused.startswith(f"error: another call trains the sweep at {OUT}/tiny (host ")
    assert bucket.runs() == set()
    assert not bucket.system.exists("bucket/results/tiny/sweep.json"), "the first call's is not replaced"


def test_another_machine_sees_that_a_sweep_is_being_trained(bucket, monkeypatch, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    assert cli("run", tmp_path / "tiny.toml", "--out", OUT, *HERE, "--max-runs", "2").code == 3
    held = lease.take(open_store(f"{OUT}/tiny"))
    bucket.machine("other")
    (of_all,), (of_one,) = (cli("status", path, "--json").json for path in (OUT, f"{OUT}/tiny"))
    assert of_all["state"] == of_one["state"] == "running"
    assert [owner["pid"] for owner in of_one["owners"]] == [os.getpid()]
    assert f":{os.getpid()} drives it\n" in cli("status", OUT).out
    held.release()
    assert cli("ls", OUT, "--json").json[0]["state"] == "interrupted"


# --- what a user can get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "run"])
def test_faults_of_a_user_are_one_line(bucket, monkeypatch, tmp_path, command):
    (tmp_path / "tiny.toml").write_text(TINY)

    def said(address, code):
        words = ("check", address) if command == "check" else ("run", tmp_path / "tiny.toml", "--out", address, *HERE)
        answer = cli(*words)
        assert answer.code == code, answer.err
        (line,) = answer.err.splitlines()
        assert line.startswith("error: ")
        assert answer.out == ""
        return line

    assert "The specified bucket does not exist" in said("s3://nobody/results", 2)
    assert "names no bucket; give an address such as s3://bucket/results" in said("s3://", 2)
    assert "Protocol not known: nonsense" in said("nonsense://bucket/results", 2)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "no access to s3://bucket/results" in said(OUT, 2)
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert 'try pip install "mupcheck[s3]"' in said(OUT, 2)


class Refusing(BaseHTTPRequestHandler):
    """Answers as S3 does to a key that it does not know."""

    def do_GET(self):
        body = (
            b"<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist in our records.</Message></Error>"
        )
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_HEAD = do_GET

    def log_message(self, *arguments):
        return


def test_wrong_credentials_are_refused_and_not_said(bucket, monkeypatch, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hushhush")
        answer = cli("run", tmp_path / "tiny.toml", "--out", OUT, *HERE)
        server.shutdown()
    assert answer.code == 2, answer.err
    (line,) = answer.err.splitlines()
    assert line.startswith(f"error: no access to {OUT}/tiny: ")
    assert "hushhush" not in line
