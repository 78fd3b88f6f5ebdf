"""A language model is asked for exactly what is wanted, with patience that ends, and the key is told to nobody else."""

import email.utils
import json
import time

import pytest

from busistore import chat, generation
from busistore.chat import Endpoint
from busistore.errors import BusistoreError
from busistore.generation import Request
from tests import llm
from tests.llm import KEY, Answer, fails, says, serving, texts

ENVIRON = {"BUSISTORE_LLM_KEY": KEY}


def request(url: str, n: int = 2, **settings) -> Request:
    return Request("mine", Endpoint("writer", url, **settings), llm.CLASSES, n)


def ask(*answers: Answer, environ=ENVIRON, note=lambda text: None, n: int = 2, **settings):
    """What comes of these answers: (the set, the requests that were sent)."""
    with serving(*answers) as endpoint:
        return generation.generate(request(endpoint.url, n, **settings), environ, note), endpoint.asked


def refused(*answers: Answer, **settings) -> tuple[str, int]:
    """The error that these answers end in, and after how many requests."""
    with serving(*answers) as endpoint:
        with pytest.raises(BusistoreError) as caught:
            generation.generate(request(endpoint.url, **settings), ENVIRON)
        said = str(caught.value)
        assert said.isprintable()
        assert len(said) < 600
        assert KEY not in said
        assert caught.value.__cause__ is None
        return said, len(endpoint.asked)


def test_what_is_sent(monkeypatch):
    monkeypatch.setattr(chat, "__version__", "9")
    _, (asked,) = ask(says(texts()))
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["user-agent"] == "busistore/9"
    assert asked.body["model"] == "writer"
    form = asked.body["response_format"]
    lists = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
    assert form == {
        "type": "json_schema",
        "json_schema": {
            "name": "prompts", "strict": True,
            "schema": {
                "type": "object", "properties": {"benign": lists, "malignant": lists, "normal": lists},
                "required": ["benign", "malignant", "normal"], "additionalProperties": False,
            },
        },
    }  # fmt: skip
    assert [m["role"] for m in asked.body["messages"]] == ["system", "user"]
    assert "write 2 descriptions" in asked.body["messages"][0]["content"]
    assert asked.body["messages"][1]["content"] == generation.INSTRUCTION
    assert KEY not in json.dumps(asked.body)


def test_what_is_made():
    found, (asked,) = ask(says(texts()))
    assert found.name == "mine"
    assert found.classes == {label: tuple(some) for label, some in texts().items()}
    details = found.details
    assert details["llm"] == "writer-2026-01-01"
    assert details["endpoint"].startswith("127.0.0.1:")
    assert details["request"] == asked.body
    assert details["usage"] == {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    assert details["n_asks"] == 1
    assert KEY not in repr(found)


def test_azure_is_asked_in_its_own_way():
    with serving(says(texts())) as endpoint:
        url = endpoint.url.removesuffix("/v1") + "/"
        generation.generate(
            Request("mine", Endpoint("my deployment", url, azure=True, api_version="2024-10-21"), llm.CLASSES, 2),
            {"AZURE_OPENAI_API_KEY": KEY, "OPENAI_API_KEY": "another"},
        )
    (asked,) = endpoint.asked
    assert asked.path == "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21"
    assert asked.headers["api-key"] == KEY
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    ("environ", "sent"),
    [
        ({"BUSISTORE_LLM_KEY": "one", "OPENAI_API_KEY": "two"}, "Bearer one"),
        ({"BUSISTORE_LLM_KEY": " ", "OPENAI_API_KEY": "two\n"}, "Bearer two"),
        ({"AZURE_OPENAI_API_KEY": "three"}, None),  # this machine may be asked without a key
    ],
)  # fmt: skip
def test_which_key_is_sent(environ, sent):
    _, (asked,) = ask(says(texts()), environ=environ)
    assert asked.headers.get("authorization") == sent


def other(**changed) -> dict[str, list[str]]:
    return texts() | changed


UNUSABLE = {
    "not JSON": (says("Sure! Here they are:"), "it was not JSON"),
    "a list": (says(["a"]), "one JSON object with exactly the keys benign, malignant, normal"),
    "a class missing": (says(texts(2, ("benign", "normal"))), "exactly the keys"),
    "a class too many": (says(other(odd=["x", "y"])), "exactly the keys"),
    "too few": (says(other(benign=["only one"])), "class 'benign' has 1 descriptions, not 2"),
    "too many": (says(texts(3)), "class 'benign' has 3 descriptions, not 2"),
    "no texts": (says(other(benign=[1, 2])), "class 'benign' holds 1 in place of a text"),
    "empty texts": (says(other(benign=["", "b"])), "in place of a text"),
    "too long": (says(other(benign=["x" * 301, "y"])), "class 'benign' has one of 301 characters"),
    "twice": (says(other(benign=["Same", "same "])), "class 'benign' holds \"same\" twice"),
    "in two classes": (says(other(benign=["same", "b"], normal=["Same", "n"])), "both hold \"Same\""),
    "a refusal": (says(None, refusal="I cannot help with that"), 'refused ("I cannot help with that")'),
    "cut": (says('{"benign": ["an im', "length"), "cut at the limit of length"),
    "filtered": (says("", "content_filter"), "content filter"),
    "nothing": (says(" "), "it was empty"),
    "half a character": (says(other(benign=["x\ud800", "y"])), "in place of a text"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_bad_answer_is_sent_back_with_the_reason(case):
    bad, reason = UNUSABLE[case]
    notes = []
    found, asked = ask(bad, says(texts()), note=notes.append)
    assert found.classes["benign"] == tuple(texts()["benign"])
    assert found.details["n_asks"] == len(asked) == 2
    assert found.details["usage"]["total_tokens"] == 300
    assert found.details["request"] == asked[1].body
    assert reason in asked[1].body["messages"][-1]["content"]
    assert asked[1].body["messages"][:2] == asked[0].body["messages"]
    assert [note for note in notes if reason in note]


@pytest.mark.parametrize("case", UNUSABLE)
def test_bad_answers_end_after_three_asks(case):
    said, n_asked = refused(UNUSABLE[case][0])
    assert "'writer' gave nothing usable in 3 asks; of the last: " in said
    assert UNUSABLE[case][1] in said
    assert n_asked == 3


def test_each_reason_is_that_of_its_answer():
    """Wrong count, then a duplicate, then well: the model hears of both, with its own answers between."""
    few, twice = other(benign=["one"]), other(benign=["same", "same"])
    _, asked = ask(says(few), says(twice), says(texts()))
    said = [(m["role"], m["content"]) for m in asked[2].body["messages"][2:]]
    assert [role for role, _ in said] == ["assistant", "user", "assistant", "user"]
    assert (json.loads(said[0][1]), json.loads(said[2][1])) == (few, twice)
    assert "has 1 descriptions" in said[1][1]
    assert "twice" in said[3][1]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_endpoint_is_waited_for(status):
    notes, started = [], time.monotonic()
    _, asked = ask(fails(status, Retry_After="1"), says(texts()), note=notes.append)
    assert len(asked) == 2
    assert time.monotonic() - started >= 1
    assert "waiting 1 s" in notes[0]


def test_patience_ends():
    said, n_asked = refused(fails(429, "Rate limit reached", Retry_After="0"))
    assert n_asked == chat.MAX_TRIES
    assert "is busy (429, too many requests) after 6 tries: Rate limit reached; try later" in said


def test_waits_grow_without_an_answer_to_how_long(monkeypatch):
    waits = []
    monkeypatch.setattr(chat.time, "sleep", waits.append)
    with serving(Answer("overloaded", 503)) as endpoint, pytest.raises(BusistoreError, match="overloaded"):
        generation.generate(request(endpoint.url), ENVIRON)
    assert [w for w in waits if w] == [1, 2, 4, 8, 16]  # the endpoint itself sleeps for 0 s


def test_too_long_a_wait_is_not_begun():
    started = time.monotonic()
    later = email.utils.formatdate(time.time() + 7200, usegmt=True)
    for asked_for in ("3600", later, "9" * 400):
        said, n_asked = refused(fails(429, Retry_After=asked_for))
        assert n_asked == 1
        assert "s more; try later" in said
    assert time.monotonic() - started < 5


def test_waits_of_several_asks_share_one_limit(monkeypatch):
    monkeypatch.setattr(chat, "MAX_WAIT_S", 1.5)
    said, n_asked = refused(fails(429, Retry_After="1"), says("bad"), fails(429, Retry_After="1"))
    assert n_asked == 3
    assert "busy" in said


@pytest.mark.parametrize(
    ("text", "wait"), [("2", 2), (" 7 ", 7), ("", None), ("soon", None), ("-1", None), ("nan", None)]
)
def test_retry_after(text, wait):
    assert chat.retry_after_s(text) == wait


def test_retry_after_as_a_date():
    assert chat.retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 50 < chat.retry_after_s(email.utils.formatdate(time.time() + 60, usegmt=True)) < 61
    assert 50 < chat.retry_after_s(email.utils.formatdate(time.time() + 60)) < 61


FAILURES = {
    400: "refuses the request: THAT; does 'writer' take response_format json_schema? (status 400)",
    401: "does not accept the key of BUSISTORE_LLM_KEY: THAT (status 401)",
    403: "forbids it to the key of BUSISTORE_LLM_KEY: THAT (status 403)",
    404: "has no 'writer' at that address: THAT; see --llm and --endpoint (status 404)",
    418: "answers unexpectedly: THAT (status 418)",
    500: "failed: THAT; try later (status 500)",
    502: "failed: THAT; try later (status 502)",
}


@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("body", [{"error": {"message": "THAT"}}, {"error": "THAT"}, {"detail": "THAT"}, "THAT"])
def test_an_error_is_one_clear_line(status, body):
    answer = Answer(body if isinstance(body, str) else json.dumps(body), status)
    said, n_asked = refused(answer)
    assert said.endswith(FAILURES[status])
    assert said.startswith("the LLM endpoint 127.0.0.1:")
    assert n_asked == 1


@pytest.mark.parametrize("body", ["[" * 600 + "]" * 600, "[" * 100_000, "null", "3", "", "{}", '{"error": null}'])
def test_an_error_may_say_anything(body):
    assert refused(Answer(body, 500))[0].endswith("try later (status 500)")
    assert "no JSON object" in refused(Answer(body.replace("{", "[").replace("}", "]")))[0]


def test_a_page_for_an_answer_is_not_quoted():
    said, _ = refused(Answer("<html><body>\x1b[31mnginx</body></html>", 502))
    assert said.endswith("failed; try later (status 502)")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("form", ["text", "message", "escaped", "elsewhere", "long"])
def test_a_key_that_is_echoed_is_cut_out(status, form):
    words = ("x" * 180 if form == "long" else "no such key: ") + KEY
    body = words if form == "text" else json.dumps({"error": {"code" if form == "elsewhere" else "message": words}})
    if form in ("escaped", "elsewhere"):  # JSON may write a slash so, or any character by its number
        body = body.replace("/", "\\/").replace("+", "\\u002b")
    said, _ = refused(Answer(body, status, {"Retry-After": "0"}))
    assert KEY not in said
    assert not any(KEY[k : k + 12] in said for k in range(len(KEY) - 11))


def test_a_key_in_an_answer_is_neither_kept_nor_sent_back():
    notes = []
    bad, good = says({"benign": [KEY]}), says(other(benign=[f"the key is {KEY}", "b"]))
    body = json.loads(good.body) | {"model": KEY, "usage": {KEY: 1}}
    found, asked = ask(bad, Answer(json.dumps(body)), note=notes.append)
    assert found.classes["benign"][0] == "the key is [key]"
    assert KEY not in repr(found) + json.dumps(asked[1].body) + "".join(notes)


@pytest.mark.parametrize(
    "answer", [Answer("<html>welcome</html>"), Answer("[]"), Answer("{}"), Answer('{"choices": []}'), Answer(""),
               Answer('{"choices": [{"message": "hello"}]}'), Answer("[" * 100_000)],
)  # fmt: skip
def test_something_that_is_no_chat_endpoint(answer):
    said, n_asked = refused(answer)
    assert "does --endpoint name its API?" in said
    assert n_asked == 1


def test_an_answer_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(chat, "MAX_BYTES", 1000)
    assert "answers with more than 1,000 bytes" in refused(Answer("x" * 100_000))[0]


def test_a_slow_endpoint_is_given_up():
    started = time.monotonic()
    said, _ = refused(Answer("{}", wait_s=2), timeout_s=0.3)
    assert "did not answer in 0.3 s; try again, or raise --timeout" in said
    assert time.monotonic() - started < 1.5


def test_an_endpoint_that_trickles_is_given_up():
    started = time.monotonic()
    said, _ = refused(Answer("x" * 1000, trickle_s=0.05), timeout_s=0.4)
    assert "did not answer in 0.4 s" in said
    assert time.monotonic() - started < 2


def test_nobody_there():
    with serving(Answer("")) as endpoint:
        pass
    with pytest.raises(BusistoreError, match=r"endpoint 127.0.0.1:\d+ cannot be reached \(Connection refused\)"):
        generation.generate(request(endpoint.url), ENVIRON)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_nothing_is_sent_there(status):
    with serving(says(texts())) as elsewhere:
        place = elsewhere.url.replace("127.0.0.1", "localhost")
        said, n_asked = refused(Answer("", status, {"Location": f"{place}/chat/completions?key={KEY}"}))
        assert f"sends the request on to localhost ({status}), which would be given the key: refused" in said
        assert n_asked == 1
        assert elsewhere.asked == []


@pytest.mark.parametrize("location", [None, "/other", "https://[", f"https://{KEY.split('/')[0]}/{KEY}"])
def test_a_redirect_to_nowhere_is_refused_too(location):
    said, _ = refused(Answer("", 302, {"Location": location} if location else {}))
    assert "sends the request on to " in said


def test_plain_http_goes_through_no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(says(texts()))[0].name == "mine"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/v1", "is not encrypted; use https"),
        ("http://localhost.example.org/v1", "is not encrypted"),
        ("http://10.0.0.7:8000/v1", "is not encrypted"),
        ("ftp://example.org", "is no web address"),
        ("file:///etc/passwd", "is no web address"),
        ("example.org/v1", "is no web address"),
        ("https://", "is no web address"),
        ("https://exa mple.org", "is no web address"),
        ("https://example.org:99999", "is no web address"),
        ("https://[::1", "is no web address"),
        ("https://example.org/\r\nX: y", "is no web address"),
        (f"https://me:{KEY}@example.org/v1", "is no web address"),  # a slash ends the host
        ("https://me:secret@example.org/v1", "holds a user name, a password or a query"),
        (f"https://example.org/v1?key={KEY}", "holds a user name, a password or a query"),
    ],
)  # fmt: skip
def test_an_address_that_no_key_is_sent_to(url, words):
    with pytest.raises(BusistoreError, match=words) as caught:
        Endpoint("writer", url)
    assert KEY not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "[::1]"])
def test_this_machine_may_be_asked_in_the_clear(host):
    assert Endpoint("writer", f"http://{host}:1234/v1/").address == f"http://{host}:1234/v1/chat/completions"


def test_what_azure_needs():
    with pytest.raises(BusistoreError, match="Azure OpenAI needs --endpoint"):
        Endpoint("writer", azure=True, api_version="1")
    with pytest.raises(BusistoreError, match="Azure OpenAI needs --api-version"):
        Endpoint("writer", "https://me.openai.azure.com", azure=True)


@pytest.mark.parametrize(
    ("host", "azure", "words"),
    [("api.openai.com", False, "BUSISTORE_LLM_KEY or OPENAI_API_KEY"),
     ("me.openai.azure.com", True, "BUSISTORE_LLM_KEY or AZURE_OPENAI_API_KEY")],
)  # fmt: skip
def test_without_a_key_nobody_is_asked(host, azure, words):
    endpoint = Endpoint("writer", f"https://{host}/v1", azure, "1")
    with pytest.raises(BusistoreError, match=f"no key for {host}: set the environment variable {words}$"):
        generation.generate(Request("mine", endpoint, llm.CLASSES), {})


@pytest.mark.parametrize("azure", [False, True])
def test_a_vendors_key_goes_to_the_vendor_alone(azure):
    endpoint = Endpoint("writer", "https://llm.invalid/v1", azure, "1")
    keys = {"OPENAI_API_KEY": KEY, "AZURE_OPENAI_API_KEY": KEY}
    with pytest.raises(BusistoreError, match=r"no key for llm\.invalid: set .* variable BUSISTORE_LLM_KEY$"):
        generation.generate(Request("mine", endpoint, llm.CLASSES), keys)


@pytest.mark.parametrize("key", ["a b", "a\nX-Other: y", "clé", "a\x00b"])
def test_a_key_that_is_none_is_not_quoted(key):
    with pytest.raises(BusistoreError, match="OPENAI_API_KEY holds characters that no key has") as caught:
        generation.generate(Request("mine", Endpoint("writer"), llm.CLASSES), {"OPENAI_API_KEY": key})
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "a/b"}, 'its "name" is "a/b"'),
        ({"classes": ()}, 'it has no "classes"'),
        ({"classes": ("a", "a")}, "named twice"),
        ({"n": 0}, "0 texts a class are none"),
        ({"instruction": "\udcff"}, "the instruction is .* no text"),
        ({"endpoint": Endpoint("")}, "the name of the LLM"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(changed, words):
    with pytest.raises(BusistoreError, match=words):
        Request(**({"name": "mine", "endpoint": Endpoint("writer"), "classes": ("a", "b")} | changed))
