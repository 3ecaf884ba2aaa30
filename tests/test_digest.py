# SPDX-License-Identifier: Apache-2.0
"""Digest authentication: the examples of the RFCs, each hash against hashlib, what is refused, nonces."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ubisip.core import digest

HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
ALGORITHMS = pytest.mark.parametrize("algorithm", sorted(HASHES))


def hashed(algorithm: str, text: str) -> str:
    return hashlib.new(HASHES[algorithm], text.encode(), usedforsecurity=False).hexdigest()


# H(A1) is a hash of what the caller likes: it shows the hash functions themselves.


@ALGORITHMS
def test_ha1_is_the_hash_that_hashlib_gives_for_every_length(algorithm: str) -> None:
    for length in range(600):  # over four blocks of the longest, every way in which the padding can fall
        password = "".join(chr(0x21 + (7 * i + length) % 94) for i in range(length))
        assert digest.ha1(algorithm, "u", "r", password).hex() == hashed(algorithm, f"u:r:{password}")


@ALGORITHMS
def test_ha1_is_the_same_wherever_the_parts_are_cut(algorithm: str) -> None:
    for user in range(0, 140, 3):
        for realm in (0, 1, 55, 63, 64, 127, 200):
            text = f"{'u' * user}:{'r' * realm}:p"
            assert digest.ha1(algorithm, "u" * user, "r" * realm, "p").hex() == hashed(algorithm, text)


@given(st.sampled_from(sorted(HASHES)), st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_ha1_of_any_text(algorithm: str, user: str, realm: str, password: str) -> None:
    assert digest.ha1(algorithm, user, realm, password).hex() == hashed(algorithm, f"{user}:{realm}:{password}")


def test_the_hash_of_a_long_text() -> None:
    assert digest.ha1("SHA-256", "", "", "x" * 1_000_000).hex() == hashed("SHA-256", "::" + "x" * 1_000_000)


def test_an_unknown_algorithm_has_no_ha1() -> None:
    with pytest.raises(ValueError, match="SHA-1 is none of MD5, SHA-256, SHA-512-256"):
        digest.ha1("SHA-1", "u", "r", "p")


RFC_7616 = (
    'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm={algorithm}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
    'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="{response}", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
MUFASA = ("Mufasa", "http-auth@example.org", "Circle of Life")
RFC_7616_RESPONSES = [
    ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
    ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
]


@pytest.mark.parametrize(("algorithm", "response"), RFC_7616_RESPONSES)
def test_rfc7616_section_3_9_1(algorithm: str, response: str) -> None:
    value = RFC_7616.format(algorithm=algorithm, response=response).encode()
    assert digest.check(value, digest.ha1(algorithm, *MUFASA), b"GET")


def test_rfc7616_section_3_9_2_as_erratum_4897_corrects_it() -> None:
    """Its userhash is left out: a server that does not offer it is not sent it, and H(A1) is of the name anyhow."""
    value = (
        'Digest username="J\u00e4s\u00f8n Doe", realm="api@example.org", uri="/doe.json", algorithm=SHA-512-256, '
        'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", nc=00000001, '
        'cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", qop=auth, '
        'response="3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5", '
        'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", userhash=false'
    ).encode()
    ha1 = digest.ha1("SHA-512-256", "J\u00e4s\u00f8n Doe", "api@example.org", "Secret, or not?")
    assert digest.check(value, ha1, b"GET")


def test_rfc2617_section_3_5() -> None:
    value = (
        b'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        b'uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", '
        b'response="6629fae49393a05397450978507c4ef1", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    assert digest.check(value, digest.ha1("MD5", "Mufasa", "testrealm@host.com", "Circle Of Life"), b"GET")


USER = ("alice", "agents.example", "s3cret")
URI = "sip:agents.example;transport=tcp"
NONCE = "5f5e1000deadbeef0123456789abcdef"


def answered(algorithm: str, *, qop: str = "auth", method: str = "REGISTER", nc: str = "0000000a") -> dict[str, str]:
    """The parameters that a phone would send, each as it is written."""
    ha1 = hashed(algorithm, ":".join(USER))
    ha2 = hashed(algorithm, f"{method}:{URI}")
    counted = f":{nc}:0a4f113b:{qop}" if qop else ""
    parameters = {
        "username": f'"{USER[0]}"', "realm": f'"{USER[1]}"', "nonce": f'"{NONCE}"', "uri": f'"{URI}"',
        "response": f'"{hashed(algorithm, f"{ha1}:{NONCE}{counted}:{ha2}")}"', "algorithm": algorithm,
    }  # fmt: skip
    return {**parameters, "cnonce": '"0a4f113b"', "nc": nc, "qop": qop} if qop else parameters


def written(parameters: dict[str, str], separator: str = ", ") -> bytes:
    return ("Digest " + separator.join(f"{name}={value}" for name, value in parameters.items())).encode()


def verified(parameters: dict[str, str], algorithm: str = "SHA-256", method: bytes = b"REGISTER") -> bool:
    return digest.check(written(parameters), digest.ha1(algorithm, *USER), method)


@ALGORITHMS
@pytest.mark.parametrize("qop", ["auth", ""])
def test_the_right_password_is_told_from_a_wrong_one(algorithm: str, qop: str) -> None:
    parameters = answered(algorithm, qop=qop)
    assert verified(parameters, algorithm)
    assert not digest.check(written(parameters), digest.ha1(algorithm, *USER[:2], "S3cret"), b"REGISTER")


@ALGORITHMS
@pytest.mark.parametrize("qop", ["auth", ""])
def test_all_that_is_hashed_counts(algorithm: str, qop: str) -> None:
    parameters = answered(algorithm, qop=qop)
    assert not verified(parameters, algorithm, b"INVITE")
    for name in ["nonce", "uri", *(["cnonce"] if qop else [])]:
        assert not verified({**parameters, name: parameters[name][:-1] + 'x"'}, algorithm), name
    if qop:
        assert not verified({**parameters, "nc": "0000000b"}, algorithm)


@ALGORITHMS
def test_a_response_with_any_digit_altered_is_wrong(algorithm: str) -> None:
    parameters = answered(algorithm)
    response = parameters["response"].strip('"')
    for i, digit in enumerate(response):
        for other in {f"{int(digit, 16) ^ 1:x}", f"{int(digit, 16) ^ 8:x}", "g", "\u00e4"}:
            altered = response[:i] + other + response[i + 1 :]
            assert not verified({**parameters, "response": f'"{altered}"'}, algorithm), altered


@pytest.mark.parametrize("cut", [0, 1, 2, 32, 62, 63])
def test_a_response_of_another_length_is_wrong(cut: int) -> None:
    parameters = answered("SHA-256")
    response = parameters["response"].strip('"')
    assert not verified({**parameters, "response": f'"{response[:cut]}"'})
    assert not verified({**parameters, "response": f'"{response}{response[:cut]}0"'})


def test_the_hex_of_a_response_may_be_in_capitals() -> None:
    parameters = answered("SHA-256")
    assert verified({**parameters, "response": parameters["response"].upper()})


def test_the_algorithm_is_md5_when_none_is_named() -> None:
    parameters = answered("MD5")
    del parameters["algorithm"]
    assert verified(parameters, "MD5")


@pytest.mark.parametrize("name", ["MD5-sess", "SHA-256-sess", "SHA-512", "SHA-1", "x", '""'])
def test_an_unknown_algorithm_is_sound_but_verifies_nothing(name: str) -> None:
    parameters = {**answered("MD5"), "algorithm": name}
    credentials = digest.parse(written(parameters))
    assert credentials is not None
    assert credentials["algorithm"] == ""
    assert not verified(parameters, "MD5")


def test_an_ha1_of_another_algorithm_verifies_nothing() -> None:
    assert not verified(answered("MD5"), "SHA-256")
    assert not verified(answered("SHA-256"), "MD5")
    assert not verified(answered("SHA-256"), "SHA-512-256")


@pytest.mark.parametrize("qop", ["auth-int", "x"])
def test_another_qop_than_auth_verifies_nothing(qop: str) -> None:
    parameters = answered("SHA-256", qop=qop)
    assert digest.parse(written(parameters)) is not None
    assert not verified(parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [("algorithm", '"SHA-256"'), ("algorithm", "sha-256"), ("qop", '"auth"'), ("nc", '"0000000a"'), ("opaque", '""')],
)
def test_what_phones_write_otherwise(name: str, value: str) -> None:
    assert verified({**answered("SHA-256"), name: value})


def test_the_name_of_the_scheme_and_those_of_parameters_are_in_any_case() -> None:
    value = written({name.upper(): value for name, value in answered("SHA-256").items()})
    assert digest.check(value.replace(b"Digest", b"dIGEST"), digest.ha1("SHA-256", *USER), b"REGISTER")


@pytest.mark.parametrize("separator", [",", " , ", "\t,\r\n\t", ",\r\n ", "\r\n  ,  "])
def test_white_space_and_folds_between_parameters(separator: str) -> None:
    value = written(answered("SHA-256"), separator)
    ha1 = digest.ha1("SHA-256", *USER)
    assert digest.check(value, ha1, b"REGISTER")
    assert digest.check(value.replace(b"=", b" =\r\n ", 1) + b" \r\n ", ha1, b"REGISTER")


@given(st.permutations(sorted(answered("SHA-256").items())))
def test_parameters_come_in_any_order(items: list[tuple[str, str]]) -> None:
    assert verified(dict(items))


def test_what_a_dict_of_credentials_holds() -> None:
    parameters = answered("SHA-256", nc="00aBcDeF")
    assert digest.parse(written({**parameters, "opaque": '"o"', "integrity-protected": "yes"})) == {
        "username": "alice", "realm": "agents.example", "nonce": NONCE, "uri": URI,
        "response": parameters["response"].strip('"'), "cnonce": "0a4f113b", "nc": "00aBcDeF", "qop": "auth",
        "opaque": "o", "algorithm": "SHA-256", "nonce_count": 0xABCDEF, "has_escapes": False,
    }  # fmt: skip


def test_the_first_register_of_an_ims_phone_is_sound_and_verifies_nothing() -> None:
    parameters = {**answered("MD5", qop=""), "nonce": '""', "response": '""'}
    assert digest.parse(written(parameters)) is not None
    assert not verified(parameters, "MD5")


@pytest.mark.parametrize("username", [r'"al\"ice"', r'"al\\ice"', r'"\alice"'])
def test_a_quoted_pair_in_the_name_is_left_and_noted(username: str) -> None:
    credentials = digest.parse(written({**answered("SHA-256"), "username": username}))
    assert credentials is not None
    assert (credentials["username"], credentials["has_escapes"]) == (username[1:-1], True)


@pytest.mark.parametrize("name", sorted(answered("SHA-256")))
def test_a_parameter_that_comes_twice_is_refused(name: str) -> None:
    parameters = answered("SHA-256")
    assert digest.parse(written(parameters)) is not None
    for again in (parameters[name], '"x"', "x"):
        assert digest.parse(written(parameters) + f", {name.upper()}={again}".encode()) is None


@pytest.mark.parametrize("name", ["username", "realm", "nonce", "uri", "response", "cnonce", "nc"])
def test_a_parameter_that_must_be_there(name: str) -> None:
    parameters = answered("SHA-256")
    del parameters[name]
    assert digest.parse(written(parameters)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nc", "1"), ("nc", "0000000"), ("nc", "000000001"), ("nc", "0000000g"), ("nc", '""'),
        ("qop", '""'), ("qop", ""), ("username*", "UTF-8''alice"), ("userhash", "true"), ("userhash", "x"),
        ("opaque", ""), ("opaque", '"'), ("opaque", '"x'), ("opaque", 'x"'), ("opaque", '"x\\"'), ("opaque", '"x" y'),
        ("opaque", "x y"), ("opaque", "x,"), ("opaque", "x,,y=z"), ("opaque", "x;y"), ("opaque", "x, y"),
        ("opaque", "x, =y"), ("opaque", "@"),
        ("realm", '"a\r\n b"'), ("realm", '"a\nb"'), ("realm", '"a\\\nb"'), ("username", '"a\0b"'),
        ("username", '"a\x7fb"'),
    ],
)  # fmt: skip
def test_what_breaks_the_grammar_is_refused(name: str, value: str) -> None:
    parameters = {**answered("SHA-256"), name: value}
    assert digest.parse(written(parameters)) is None
    assert not verified(parameters)


WHOLE = written({"opaque": r'"a\"b"', **dict(reversed(answered("SHA-256").items()))}, "\r\n , ")
"""Ends with what must be there, so that it is not sound wherever it is cut."""


@pytest.mark.parametrize(
    "value", [b"", b"Digest", b"Digest ", b"Basic YTpi", b"Digest,", b"Digest =", b"\0", WHOLE.replace(b"t", b"tx", 1)]
)
def test_what_is_no_digest_credentials_is_refused(value: bytes) -> None:
    assert digest.parse(value) is None


PADDING = 64
"""SCAN_PADDING of scan.h."""


@pytest.fixture(scope="module")
def edge() -> Iterator[mmap.mmap]:
    """A page behind which nothing can be read: to try it ends the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    anchor = ctypes.c_char.from_buffer(memory, mmap.PAGESIZE)
    behind = ctypes.c_void_p(ctypes.addressof(anchor))
    assert libc.mprotect(behind, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    yield memory
    assert libc.mprotect(behind, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE) == 0
    del anchor
    memory.close()


def at_the_edge(edge: mmap.mmap, value: bytes) -> memoryview:
    """*value*, behind it no more than what a datagram has: PADDING octets that may be read and must not matter."""
    end = mmap.PAGESIZE - PADDING
    edge[end - len(value) : mmap.PAGESIZE] = value + b"x" * PADDING
    return memoryview(edge)[end - len(value) : end]


def test_nothing_is_read_beyond_the_value_wherever_it_is_cut(edge: mmap.mmap) -> None:
    for length in range(len(WHOLE) + 1):
        with at_the_edge(edge, WHOLE[:length]) as value:
            assert (digest.parse(value) is not None) == (length == len(WHOLE)), length


PIECES = st.sampled_from(
    [
        b"Digest ", b"username", b"username*", b"realm", b"nc", b"qop", b"response", b"algorithm", b"userhash", b"=",
        b", ", b'"', b"\\", b"\r\n ", b'"x"', b"auth", b"00000001", b"MD5", b"\0", b"\xff", WHOLE,
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(b"".join) | st.binary(max_size=200).map(b"Digest ".__add__))
@example(WHOLE)
def test_any_value_is_read_within_its_bounds_and_no_differently_elsewhere(edge: mmap.mmap, value: bytes) -> None:
    with at_the_edge(edge, value) as view:
        credentials = digest.parse(view)
    assert credentials == digest.parse(value)
    if credentials is not None:
        assert credentials["response"].encode("utf-8", "surrogateescape") in value


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters='"\\'), max_size=40))
def test_any_name_is_read_and_verified(name: str) -> None:
    user = (name, *USER[1:])
    ha1, ha2 = hashed("SHA-256", ":".join(user)), hashed("SHA-256", f"REGISTER:{URI}")
    response = hashed("SHA-256", f"{ha1}:{NONCE}:{ha2}")
    value = written({**answered("SHA-256", qop=""), "username": f'"{name}"', "response": f'"{response}"'})
    credentials = digest.parse(value)
    assert credentials is not None
    assert credentials["username"] == name
    assert digest.check(value, digest.ha1("SHA-256", *user), b"REGISTER")


NOW = 1_800_000_000
LIFETIME = 60
OLD, NEW, OTHER = bytes(range(16)), bytes(range(16, 32)), bytes(16)


def state(nonce: str, now: int = NOW, keys: list[bytes] | None = None) -> str:
    return digest.nonce_state(keys or [NEW, OLD], nonce, now, LIFETIME).state


def test_a_nonce_tells_when_it_was_issued_and_its_salt() -> None:
    nonce = digest.nonce([NEW], NOW, 0xFEDCBA98)
    assert len(nonce) == 32
    assert digest.nonce_state([NEW], nonce, NOW, LIFETIME) == ("good", NOW, 0xFEDCBA98)
    assert digest.nonce_state([OLD], nonce, NOW, LIFETIME) == ("bad", 0, 0)


def siphash(key: bytes, *words: int) -> int:
    """SipHash-2-4 of 64-bit words, as its authors describe it."""
    mask = 2**64 - 1
    k = (int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"))
    a, b, c, d = (
        k[i % 2] ^ int.from_bytes(b"somepseudorandomlygeneratedbytes"[8 * i : 8 * i + 8], "big") for i in range(4)
    )

    def turned(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & mask

    for word in (*words, 8 * len(words) << 56 & mask, None):
        d ^= word or 0
        c ^= 0xFF if word is None else 0
        for _ in range(4 if word is None else 2):
            a, c = (a + b) & mask, (c + d) & mask
            b, d, a = turned(b, 13) ^ a, turned(d, 16) ^ c, turned(a, 32)
            c, a = (c + b) & mask, (a + d) & mask
            b, d, c = turned(b, 17) ^ c, turned(d, 21) ^ a, turned(c, 32)
        a ^= word or 0
    return a ^ b ^ c ^ d


def test_a_nonce_is_made_as_gateways_of_another_version_make_it() -> None:
    mac = siphash(NEW, ord("N") << 56, NOW << 32 | 0xABCDEF)
    assert digest.nonce([NEW], NOW, 0xABCDEF) == f"{NOW:08x}00abcdef{mac:016x}"


def test_nonces_differ_by_their_salt_and_their_second() -> None:
    assert len({digest.nonce([NEW], NOW + second, salt) for second in range(9) for salt in range(9)}) == 81


def test_a_nonce_of_any_key_of_the_ring_is_good() -> None:
    assert digest.nonce([NEW, OLD], NOW, 7) == digest.nonce([NEW], NOW, 7) != digest.nonce([OLD], NOW, 7)
    assert state(digest.nonce([NEW], NOW, 7)) == "good"
    assert state(digest.nonce([OLD], NOW, 7)) == "good"
    assert state(digest.nonce([OTHER], NOW, 7)) == "bad"
    assert state(digest.nonce([OTHER], NOW, 7), keys=[NEW, OLD, NEW, OTHER]) == "good"


@pytest.mark.parametrize(
    ("age", "wanted"),
    [(0, "good"), (LIFETIME, "good"), (LIFETIME + 1, "stale"), (-5, "good"), (-6, "stale"), (NOW, "stale")],
)
def test_a_nonce_ages(age: int, wanted: str) -> None:
    assert digest.nonce_state([NEW], digest.nonce([NEW], NOW - age, 7), NOW, LIFETIME) == (wanted, NOW - age, 7)


def test_ages_do_not_overflow() -> None:
    last = 2**32 - 1
    assert state(digest.nonce([NEW], last, 7), now=0) == "stale"
    assert state(digest.nonce([NEW], 0, 7), now=last) == "stale"
    assert digest.nonce_state([NEW], digest.nonce([NEW], 0, 7), last, last).state == "good"


def test_a_nonce_with_any_octet_altered_is_bad() -> None:
    nonce = digest.nonce([NEW], NOW, 0xABCDEF01)
    for i, digit in enumerate(nonce):
        for other in {"0", "1", "f", "g", "A", "\0", digit.upper()} - {digit}:
            assert state(nonce[:i] + other + nonce[i + 1 :]) == "bad"


@pytest.mark.parametrize("length", [*range(32), 33, 64])
def test_a_nonce_of_another_length_is_bad(length: int) -> None:
    assert state((digest.nonce([NEW], NOW, 7) * 2)[:length]) == "bad"


@given(st.text(max_size=40) | st.text("0123456789abcdef", min_size=32, max_size=32))
def test_no_text_of_a_stranger_is_a_nonce(text: str) -> None:
    assert state(text) == "bad"


@pytest.mark.parametrize("keys", [[], [b"short"], [bytes(17)], [bytes(16)] * 5])
def test_what_is_no_key_ring_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="1 to 4 keys of 16 octets"):
        digest.nonce(keys, NOW, 7)
    with pytest.raises(ValueError, match="1 to 4 keys of 16 octets"):
        digest.nonce_state(keys, NONCE, NOW, LIFETIME)


def test_verify_many_times_only_what_is_right() -> None:
    value, ha1 = written(answered("SHA-256")), digest.ha1("SHA-256", *USER)
    assert digest.verify_many(value, ha1, b"REGISTER", 10) > 0
    with pytest.raises(ValueError, match="the response is wrong"):
        digest.verify_many(value, ha1, b"INVITE", 10)
    with pytest.raises(ValueError, match="no credentials"):
        digest.verify_many(value, ha1[:16], b"REGISTER", 10)
