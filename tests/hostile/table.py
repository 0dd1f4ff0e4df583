"""The table of attacks by a repository, a mirror, or somebody on the way.

`kind` is one of the TUF specification's list (section 1.5.2), or another word.
ELSEWHERE names attacks that tests of their own make, so that all are counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from recovery.errors import FetchError, ManifestError, OrbitalError, RefusedError, TrustError
from tests.hostile import attacks as make
from tests.hostile import wires
from tests.hostile.world import World

TUF = (
    "arbitrary installation", "endless data", "extraneous dependencies", "fast-forward",
    "indefinite freeze", "malicious mirrors", "mix-and-match", "rollback", "slow retrieval",
    "key compromise", "wrong software",
)  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """begin spoils the world. errors: what the device says.

    early: it is refused before anything is written; else the inactive slot may have pieces.
    """

    name: str
    kind: str
    begin: Callable[[World], object]
    errors: tuple[type[OrbitalError], ...] = (TrustError, FetchError)
    early: bool = True


_T, _F = (TrustError,), (FetchError,)
_METADATA = ("timestamp", "snapshot", "targets", "os")

ATTACKS = (
    Attack("repository of a stranger", "arbitrary installation", make.stranger, _T),
    Attack("targets of a stranger", "arbitrary installation", make.stranger_below, _T),
    Attack("no signatures", "arbitrary installation", make.unsigned, _T),
    Attack("one signature twice", "arbitrary installation", make.same_signature_twice, _T),
    Attack("index of another version", "arbitrary installation", make.other_image_for_index, _T),
    Attack("endless timestamp", "endless data", wires.endless("timestamp.json")),
    Attack("endless snapshot", "endless data", wires.endless("snapshot.json")),
    Attack("endless root", "endless data", wires.endless("root.json")),
    Attack("endless index", "endless data", wires.endless("index.json")),
    Attack("endless chunks", "endless data", wires.endless("/chunks/"), early=False),
    Attack("an exabyte announced", "endless data", wires.endless_length),
    Attack("endless headers", "endless data", wires.endless_headers),
    Attack("endless roots", "endless data", wires.endless_roots),
    Attack("a bomb as content encoding", "endless data", wires.bomb_as_encoding),
    Attack("versions run ahead by stolen keys", "fast-forward", make.fast_forward, _T),
    Attack("the same for ever", "indefinite freeze", make.freeze, _T),
    Attack("the same, clock set back", "indefinite freeze", make.freeze_with_clock_back, _T),
    Attack("a clock in 2106", "indefinite freeze", make.clock_at_2106, _T),
    Attack("chunks swapped by a mirror", "malicious mirrors", make.swapped_chunks, early=False),
    Attack("a mirror that has nothing", "malicious mirrors", wires.always(404), _F),
    Attack("a mirror that refuses", "malicious mirrors", wires.always(403), _F),
    Attack("a mirror out of order", "malicious mirrors", wires.always(500), _F),
    Attack("a captive portal", "malicious mirrors", wires.always(200, b"<html>log in</html>")),
    Attack("empty files", "malicious mirrors", wires.always(200, b"")),
    Attack("no content", "malicious mirrors", wires.always(204), _F),
    Attack("empty chunks", "malicious mirrors", wires.always(200, b"", only="/chunks/"),
           early=False),
    *(Attack(f"older {role} under newer metadata", "mix-and-match", make.mix(role), _T)
      for role in _METADATA[1:] if role != "targets"),
    Attack("older snapshot and os", "mix-and-match", make.mix("snapshot", "os"), _T),
    Attack("parts of two images in one", "mix-and-match", make.mix_of_parts,
           (TrustError, ManifestError), early=False),
    Attack("everything older", "rollback", make.rollback(), _T),
    Attack("older timestamp", "rollback", make.rollback("timestamp"), _T),
    Attack("older timestamp and snapshot", "rollback", make.rollback("timestamp", "snapshot"), _T),
    Attack("everything older, cache lost", "rollback", make.rollback_without_cache, _T),
    *(Attack(f"{part} that trickles in the {where}", "slow retrieval", wires.slow(part, where), _F)
      for part, where in (("timestamp", "headers"), ("timestamp", "body"), ("index", "body"))),
    Attack("a server that says nothing", "slow retrieval", wires.slow("", "silence"), _F),
    Attack("chunks that trickle", "slow retrieval", wires.slow("/chunks/", "body"), _F,
           early=False),
    *(Attack(f"stolen: {', '.join(roles)}", "key compromise", make.stolen(*roles), _T)
      for roles in (("timestamp",), ("snapshot",), ("os",), ("timestamp", "snapshot"),
                    ("os", "snapshot"), ("os", "timestamp"))),
    Attack("releases of another board", "wrong software", make.another_board, _T),
    Attack("an index of another board", "wrong software", make.index_of_another_board,
           (RefusedError, ManifestError)),
    Attack("sizes that overrun a slot", "sizes that lie",
           make.signed_wrongly(lambda d: d["root"]["stream"].update(size=1 << 50)),
           (ManifestError,)),
    Attack("a negative size", "sizes that lie",
           make.signed_wrongly(lambda d: d["boot"]["stream"].update(size=-1)), (ManifestError,)),
    Attack("segments of a gigabyte", "sizes that lie",
           make.signed_wrongly(lambda d: d["root"]["stream"].update(segment_size=1 << 30)),
           (ManifestError,)),
    Attack("a hash tree elsewhere", "sizes that lie",
           make.signed_wrongly(lambda d: d["root"].update(hash_offset=4096)), (ManifestError,)),
    Attack("another root hash", "sizes that lie",
           make.signed_wrongly(lambda d: d["root"].update(root_hash="00" * 32)), _T, early=False),
    Attack("answers said to be longer", "sizes that lie", wires.lying_length(7), _F),
    Attack("answers said to be shorter", "sizes that lie", wires.lying_length(-7)),
    Attack("a file that goes on as another", "wrong ranges", wires.tampered_cut, early=False),
    Attack("parts nobody asked for", "wrong ranges",
           wires.always(206, b"x" * 100, {"Content-Range": "bytes 0-99/100"}), _F),
    Attack("no range for anything", "wrong ranges", wires.always(416), _F),
    Attack("a range of thousands of digits", "wrong ranges",
           wires.always(206, b"x", {"Content-Range": f"bytes {'9' * 5000}-1/2"}), _F),
    Attack("redirected for ever", "redirects", wires.redirect("{url}/again"), _F),
    Attack("redirected to a file", "redirects", wires.redirect("file:///etc/passwd"), _F),
    Attack("redirected to nobody", "redirects", wires.redirect("http://127.0.0.1:1/x"), _F),
    Attack("redirected to no address", "redirects", wires.redirect("http://[::/x"), _F),
    Attack("an answer that is none", "protocol", wires.raw(b"\0\xff" * 500), _F),
    Attack("two lengths", "protocol",
           wires.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")),
    Attack("chunks of no number", "protocol",
           wires.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello"), _F),
    Attack("a body without a length", "protocol", wires.raw(b"HTTP/1.1 200 OK\r\n\r\n{}"), _F),
    Attack("a role called like a path", "path tricks", make.publisher_name("../../os"),
           (RefusedError,)),
    Attack("a role called like a record", "path tricks", make.publisher_name("seen"),
           (RefusedError,)),
    Attack("a pipe on a stick", "path tricks", make.stick(os.mkfifo)),
    Attack("a directory on a stick", "path tricks", make.stick(lambda path: path.mkdir())),
    Attack("a device node on a stick", "path tricks",
           make.stick(lambda path: path.symlink_to("/dev/zero"))),
    Attack("a link to itself on a stick", "path tricks",
           make.stick(lambda path: path.symlink_to(path.name))),
)  # fmt: skip

# Attack, and the test that makes it; by the file of that test.
ELSEWHERE: dict[str, dict[str, str]] = {
    "tests/updater/test_adversary.py": {
        "metadata changed after signing": "test_metadata_changed_after_signing",
        "root rotated by too few keys": "test_root_rotated_by_too_few_keys",
        "root hidden from a device that knows it":
        "test_new_root_hidden_from_a_device_that_knows_it",
        "downgrade without permission": "test_downgrade_without_permission",
        "image for another device": "test_image_for_another_device",
    },
    "tests/updater/test_chunks.py": {
        "bad chunks, also bombs": "test_bad_chunk",
    },
    "tests/updater/test_delta.py": {
        "deltas that are wrong":
        "test_whatever_is_wrong_with_a_delta_the_update_completes_at_a_bounded_cost",
        "signed deltas without sense": "test_a_signed_delta_that_makes_no_sense_costs_little",
    },
    "tests/updater/test_slices.py": {
        "signed slice maps that lie": "test_a_signed_map_that_lies_costs_little",
    },
    "tests/delta/test_frame_hostile.py": {
        "payloads that lie": "test_a_lie_is_an_error",
        "payloads that are bombs": "test_a_bomb_is_an_error_before_it_costs_memory",
    },
    "tests/updater/packages/test_hostile_repository.py": {
        "packages: extraneous dependencies of another publisher":
        "test_role_that_lists_a_package_of_another_is_not_asked",
        "packages: mix of two moments, OS and packages": "test_mix_of_two_moments",
        "packages: role replayed": "test_role_replayed_from_before",
        "packages: signed by a stranger": "test_image_signed_by_a_stranger",
        "packages: signed by another publisher": "test_image_signed_by_another_publisher",
        "packages: stolen online keys":
        "test_stolen_online_keys_cannot_bring_back_a_withdrawn_release",
        "packages: sizes that lie": "test_sizes_that_lie",
        "packages: endless releases": "test_releases_that_never_end",
        "packages: a role called like a record": "test_role_whose_name_is_that_of_a_record",
    },
    "tests/updater/packages/test_fetch.py": {
        "packages: an endless chunk": "test_a_chunk_that_never_ends",
        "packages: a link in place of the temporary file":
        "test_a_link_in_place_of_the_temporary_file_is_not_followed",
    },
    "qemu/scenarios/test_hostile.py": {
        "booted: tampered repositories":
        "test_tampered_repositories_are_refused_and_change_nothing",
    },
}  # fmt: skip
