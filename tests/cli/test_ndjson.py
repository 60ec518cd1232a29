"""`notifier send CLIENT_ID -`: lines of standard input, as processes against a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cli.command import NOTIFIER, environment, notifier
from tests.cli.test_send_and_listen import access
from tests.client.scripted import http_server
from tests.harness import Server


def test_ndjson_is_sent_in_order_and_bad_lines_are_named(shared_server: Server, tmp_path: Path) -> None:
    lines = "\n".join(["1", "", '{"two": 2}', "three", '"four"']) + "\n"
    sent = notifier("send", "nd", "-", "--event", "line", cwd=tmp_path, stdin=lines, **access(shared_server))
    assert sent.code == 1
    assert len(sent.out.splitlines()) == 3
    assert sent.err.startswith("notifier: line 4 is not JSON and was not sent: ")
    got = notifier("listen", "nd", "--count", "3", "--json", cwd=tmp_path, **access(shared_server, "nd"))
    frames = [json.loads(line) for line in got.out.splitlines()]
    assert [frame["data"] for frame in frames] == [1, {"two": 2}, "four"]
    assert {frame["event"] for frame in frames} == {"line"}


def test_lines_that_the_server_refuses_are_named_and_the_rest_is_stored(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server(mailbox_limit=2)
    sent = notifier("send", "full", "-", "--json", cwd=tmp_path, stdin="1\n2\n3\n", **access(server))
    assert sent.code == 1
    assert [("error" in json.loads(line)) for line in sent.out.splitlines()] == [False, False, True]
    assert "notifier: line 3 was refused (mailbox_full): " in sent.err


def test_many_lines_go_in_batches(shared_server: Server, tmp_path: Path) -> None:
    count = 900
    stdin = "".join(f"{n}\n" for n in range(count))
    before = shared_server.metrics()
    sent = notifier("send", "many", "-", cwd=tmp_path, stdin=stdin, **access(shared_server))
    assert (sent.code, len(sent.out.splitlines())) == (0, count)
    after = shared_server.metrics()
    name = "notifier_engine_batch_size_count"
    assert after[name] - before[name] < count / 4
    got = notifier("listen", "many", "--count", str(count), "--json", cwd=tmp_path, **access(shared_server, "many"))
    assert [json.loads(line)["data"] for line in got.out.splitlines()] == list(range(count))


def test_a_line_is_sent_when_it_comes_and_not_when_the_input_ends(shared_server: Server, tmp_path: Path) -> None:
    with subprocess.Popen(
        [NOTIFIER, "send", "drip", "-"],
        env=environment(**access(shared_server)),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        for n in range(3):
            sender.stdin.write(f"{n}\n")
            sender.stdin.flush()
            assert sender.stdout.readline().startswith("queued id=")
        sender.stdin.close()
        assert sender.wait(30) == 0


def test_when_the_server_is_gone_in_the_middle_the_input_is_not_read_to_its_end(tmp_path: Path) -> None:
    with http_server((401, {"code": "unauthorized", "detail": "No."}, {})) as server:
        result = subprocess.run(
            ["bash", "-c", f"yes 1 | {NOTIFIER} send alice -"],
            env=environment(NOTIFIER_URL=server.url, NOTIFIER_API_KEY="k"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "notifier: refused (unauthorized): No.\n"


def test_lines_that_are_too_long_are_named_and_the_others_are_sent(shared_server: Server, tmp_path: Path) -> None:
    """Over MAX_BODY_BYTES the server refuses the whole batch; far over it, there is no use in sending it at all."""
    lines = ["1", json.dumps("x" * 70_000), "2", json.dumps("x" * 5_000_000), "3", json.dumps("x" * 66_000)]
    stdin = "\n".join(lines)
    sent = notifier("send", "long", "-", "--json", cwd=tmp_path, stdin=stdin, **access(shared_server))
    assert sent.code == 1
    answers = [json.loads(line) for line in sent.out.splitlines()]
    codes = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert codes == ["too_large", "too_large"]
    assert "notifier: line 2 was refused (too_large): " in sent.err
    assert "notifier: line 4 has more than 1048576 bytes and was not sent" in sent.err
    assert "notifier: line 6 was refused (too_large): " in sent.err
    assert sent.err.count("\n") == 3
    got = notifier("listen", "long", "--count", "3", "--json", cwd=tmp_path, **access(shared_server, "long"))
    assert [json.loads(line)["data"] for line in got.out.splitlines()] == [1, 2, 3]


def closed_or_broken(stdin: str, tmp_path: Path, server: Server) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"{NOTIFIER} send a - {stdin}"],
        env=environment(**access(server)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_standard_input_is_a_wrong_usage(shared_server: Server, tmp_path: Path) -> None:
    done = closed_or_broken("<&-", tmp_path, shared_server)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "notifier: standard input is closed; - reads NDJSON from it\n"


def test_a_standard_input_that_cannot_be_read_is_a_failure(shared_server: Server, tmp_path: Path) -> None:
    done = closed_or_broken("0>/dev/null", tmp_path, shared_server)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "notifier: standard input cannot be read: Bad file descriptor\n"
