"""What the tools are asked as tables of arguments, and what their answers mean. No tool runs here."""

from __future__ import annotations

import pytest

from rpcmesh.firewall import loaded
from rpcmesh.firewall.loaded import Command, Loaded, Record, cut_off, tool
from rpcmesh.firewall.rules import Rules

NFT, PF = tool("nft", "node"), tool("pf", "node")
PEER_RULE = (
    "pass in quick proto tcp from <rpcmesh_peers> to any port = 7443 flags S/SA keep state "
    "(overload <rpcmesh_abuse> flush)\n"
)
RULES = (
    "block drop in log quick proto tcp from <rpcmesh_abuse> to any port = 7443\n"
    f'{PEER_RULE}block drop in log quick on ! lo0 proto tcp from any to any port = 7443 label "rpcmesh:deny"\n'
)
ANCHOR = ("pfctl", "-a", "com.apple/100.rpcmesh")
PF_ANSWERS = {
    "rules": RULES,
    "peers": "   192.168.1.10\n   fd00::10\n",
    "info": "Status: Enabled for 0 days 00:01:02           Debug: Urgent\n",
    "main": 'scrub-anchor "com.apple/*" all fragment reassemble\nanchor "com.apple/*" all\n',
    "interfaces": "en0\n\tCleared: never\nlo0\n\tCleared: never\n",
}
# nft breaks long lists, and indents them by tabs and spaces.
SEEN = (
    "\t\telements = { 10.77.0.1 limit rate over 180/minute burst 30 packets,\n"
    "\t\t\t     10.77.0.2 limit rate over 180/minute burst 30 packets }\n"
)
NFT_TABLE = """table inet rpcmesh {
	set peers_v4 {
		type ipv4_addr
		flags interval
		elements = { 10.77.0.1 }
	}

	set tries_v4 {
		type ipv4_addr
		size 65536
		flags dynamic,timeout
		timeout 1m
SEEN	}

	chain input {
		tcp dport 7443 counter drop
	}
}
""".replace("SEEN", SEEN)


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (NFT.check("R"), Command(("nft", "-c", "-f", "-"), "R")),
        (NFT.load("R"), Command(("nft", "-f", "-"), "R")),
        (
            NFT.restore(None),
            Command(("nft", "-f", "-"), "table inet rpcmesh\ndelete table inet rpcmesh\n"),
        ),
        (
            NFT.restore(Loaded("R")),
            Command(("nft", "-f", "-"), "table inet rpcmesh\ndelete table inet rpcmesh\nR"),
        ),
        (PF.check("R"), Command((*ANCHOR, "-nf", "-"), "R")),
        (PF.load("R"), Command((*ANCHOR, "-f", "-"), "R")),
        (PF.restore(None), Command((*ANCHOR, "-F", "all"))),
        (PF.restore(Loaded("R")), Command((*ANCHOR, "-f", "-"), "R")),
    ],
)
def test_commands(command: Command, meant: Command) -> None:
    assert command == meant


@pytest.mark.parametrize(
    ("backend", "meant"),
    [
        ("nft", {"tables": "nft list tables inet", "table": "nft --stateless list table inet rpcmesh"}),
        (
            "pf",
            {
                "rules": "pfctl -a com.apple/100.rpcmesh -s rules",
                "peers": "pfctl -a com.apple/100.rpcmesh -t rpcmesh_peers -T show",
                "info": "pfctl -s info",
                "main": "pfctl -s rules",
                "interfaces": "pfctl -vv -s Interfaces",
            },
        ),
    ],
)
def test_questions(backend: loaded.Backend, meant: dict[str, str]) -> None:
    asked = tool(backend, "node").questions

    assert {name: " ".join(question.argv) for name, question in asked.items()} == meant


def test_pf_is_turned_on_and_released_by_token() -> None:
    assert (PF.enable, PF.holders, PF.release) == (("pfctl", "-E"), ("pfctl", "-s", "References"), ("pfctl", "-X"))


def test_no_command_touches_the_rules_of_the_whole_machine() -> None:
    argvs = [
        *(question.argv for question in PF.questions.values()),
        *(command.argv for command in (PF.check("R"), PF.load("R"), PF.restore(None), PF.restore(Loaded("R")))),
        *(command.argv for command in (*PF.exchange({"peers": ("10.0.0.1",)}), *PF.cut(("10.0.0.1",)))),
        PF.expire,
    ]

    changing = [argv for argv in argvs if {"-f", "-nf", "-F", "replace", "expire"} & set(argv)]

    assert len(changing) == 6
    assert all(argv[:3] == ANCHOR for argv in changing)
    assert not any("-d" in argv for argv in argvs)


def test_nft_without_our_table_has_nothing_loaded() -> None:
    assert NFT.read({"tables": "table inet rpcmesh2\ntable inet filter\n", "table": ""}) is None


def test_addresses_that_nft_has_seen_are_not_part_of_the_rules() -> None:
    found = NFT.read({"tables": "table inet rpcmesh\n", "table": NFT_TABLE})

    assert found is not None
    assert found.text == NFT_TABLE.replace(SEEN, "")
    assert "elements = { 10.77.0.1 }" in found.text


def test_an_empty_anchor_has_nothing_loaded() -> None:
    assert PF.read({**PF_ANSWERS, "rules": ""}) is None


def test_what_pf_has_loaded_is_text_that_it_would_load_again() -> None:
    found = PF.read(PF_ANSWERS)

    assert found == Loaded(
        f"table <rpcmesh_peers> persist {{ 192.168.1.10, fd00::10 }}\ntable <rpcmesh_abuse> persist\n{RULES}"
    )


def test_a_table_that_no_pf_rule_names_is_not_loaded_again() -> None:
    rules = RULES.replace(PEER_RULE, "")

    found = PF.read({**PF_ANSWERS, "rules": rules, "peers": ""})

    assert found == Loaded(f"table <rpcmesh_abuse> persist\n{rules}")


@pytest.mark.parametrize(
    ("answer", "said", "obstacle"),
    [
        ("info", "Status: Disabled for 0 days 00:01:02\n", "pf is off"),
        ("main", 'scrub-anchor "com.apple/*" all fragment reassemble\n', "no longer have the line anchor"),
    ],
)
def test_pf_rules_that_have_no_effect_are_not_as_meant(answer: str, said: str, obstacle: str) -> None:
    found = PF.read({**PF_ANSWERS, answer: said})
    assert found is not None

    verdict = loaded.judge(found, Record("pf", "R", PEERS, (), found.text), meant())

    assert obstacle in verdict.problem


@pytest.mark.parametrize(("label", "obstacles"), [("rpcmesh:deny", 0), ("rpcmesh:worker-lo", 1)])
def test_a_skipped_lo0_matters_only_to_a_stock_worker(label: str, obstacles: int) -> None:
    rules = RULES.replace("rpcmesh:deny", label)

    found = PF.read({**PF_ANSWERS, "rules": rules, "interfaces": "en0\nlo0 (skip)\n"})

    assert found is not None
    assert len(found.obstacles) == obstacles


PEERS = {"peers": ("10.0.0.1",)}
MEANT = Record("nft", "R", PEERS, (), "listed")


def meant(frame: str = "R", peer: str = "10.0.0.1") -> Rules:
    return Rules("node", "text", frame, {"peers": (peer,)}, ())


@pytest.mark.parametrize(
    ("found", "record", "rules", "problem"),
    [
        (None, None, meant(), "not loaded"),
        (None, MEANT, meant(), "no longer loaded"),
        (Loaded("listed"), None, meant(), "did not load them"),
        (Loaded("other"), MEANT, meant(), "drift"),
        (Loaded("other"), MEANT, meant("R2"), "drift"),
        (Loaded("listed"), MEANT, meant("R2"), "older settings"),
        (Loaded("listed"), MEANT, meant(peer="10.0.0.2"), "older addresses"),
    ],
)
def test_what_differs_is_named(found: Loaded | None, record: Record | None, rules: Rules, problem: str) -> None:
    assert problem in loaded.judge(found, record, rules).problem


def test_what_was_applied_and_not_changed_is_as_meant() -> None:
    assert loaded.judge(Loaded("listed"), MEANT, meant()) == loaded.AS_MEANT


def test_the_token_is_read_from_what_pfctl_prints() -> None:
    assert (
        loaded.pf_token("No ALTQ support in kernel\npf enabled\nToken : 4660104133361250581\n") == "4660104133361250581"
    )


def test_a_pfctl_that_gives_no_token_is_no_error() -> None:
    assert loaded.pf_token("pf already enabled\n") == ""


@pytest.mark.parametrize(("token", "holds"), [("466010", True), ("46601", False), ("", False)])
def test_pf_is_held_by_a_whole_token_only(token: str, holds: bool) -> None:
    said = (
        "TOKENS:\nPID      Process Name                 TOKEN                    TIMESTAMP\n55  pfctl  466010  0 days\n"
    )

    assert loaded.pf_holds(token, said) is holds


def test_nft_exchanges_addresses_in_one_transaction() -> None:
    (command,) = NFT.exchange({"peers": ("10.0.0.1", "10.0.1.0/24")})

    assert command == Command(
        ("nft", "-f", "-"),
        "flush set inet rpcmesh peers_v4\n"
        "add element inet rpcmesh peers_v4 { 10.0.0.1, 10.0.1.0/24 }\n"
        "flush set inet rpcmesh peers_v6\n",
    )


PF_LOADED = f"table <rpcmesh_peers> persist {{ 10.77.0.1 }}\ntable <rpcmesh_abuse> persist\n{RULES}"
EXCHANGED = {"peers": ("10.77.0.8", "10.77.0.9")}
RULE_OF = {"nft": "\t\ttcp dport 7443 counter drop\n", "pf": PEER_RULE}


def loaded_before_and_after(backend: loaded.Backend) -> tuple[str, str]:
    before = {"nft": NFT_TABLE.replace(SEEN, ""), "pf": PF_LOADED}[backend]
    return before, before.replace("10.77.0.1", "10.77.0.8, 10.77.0.9")


@pytest.mark.parametrize("backend", ["nft", "pf"])
def test_exchanged_addresses_are_remembered_as_they_are_read_back(backend: loaded.Backend) -> None:
    before, after = loaded_before_and_after(backend)
    rules = Rules("node", "text", "R", EXCHANGED, ())

    record = loaded.after_exchange(tool(backend, "node"), Record(backend, "R", PEERS, (), before), rules, Loaded(after))

    assert record == Record(backend, "R", EXCHANGED, (), after)
    assert loaded.judge(Loaded(after), record, rules) == loaded.AS_MEANT


@pytest.mark.parametrize("backend", ["nft", "pf"])
@pytest.mark.parametrize("left", ["a rule less", "nothing"])
def test_what_somebody_changed_while_addresses_were_exchanged_is_drift(backend: loaded.Backend, left: str) -> None:
    before, after = loaded_before_and_after(backend)
    found = Loaded(after.replace(RULE_OF[backend], "")) if left == "a rule less" else None
    rules = Rules("node", "text", "R", EXCHANGED, ())

    record = loaded.after_exchange(tool(backend, "node"), Record(backend, "R", PEERS, (), before), rules, found)

    assert loaded.judge(found, record, rules).drift


def test_rules_that_name_other_ports_are_remembered_as_they_were_loaded() -> None:
    rules = Rules("coordinator", "text", "R", PEERS, (7444,))

    record = loaded.after_exchange(NFT, Record("nft", "R", PEERS, (7443,), "former"), rules, Loaded("listed"))

    assert record == Record("nft", "R", PEERS, (7444,), "listed")


def test_pf_exchanges_addresses_table_by_table() -> None:
    pf = tool("pf", "coordinator")

    said = [command.argv[3:] for command in pf.exchange({"peers": ("10.0.0.1", "fd00::1"), "revoked": ()})]

    assert said == [
        ("-t", "rpcmesh_peers", "-T", "replace", "10.0.0.1", "fd00::1"),
        ("-t", "rpcmesh_revoked", "-T", "flush"),
    ]


def test_pf_leaves_a_table_alone_that_an_open_coordinator_does_not_have() -> None:
    assert len(tool("pf", "coordinator").exchange({"peers": (), "revoked": ()})) == 1


def test_pf_kills_what_began_at_either_end() -> None:
    said = [command.argv for command in PF.cut(("10.0.0.1", "fd00::1"))]

    assert said == [
        ("pfctl", "-k", "10.0.0.1"),
        ("pfctl", "-k", "0.0.0.0/0", "-k", "10.0.0.1"),
        ("pfctl", "-k", "fd00::1"),
        ("pfctl", "-k", "::/0", "-k", "fd00::1"),
    ]


def test_who_left_the_peers_and_who_was_revoked_is_cut_off() -> None:
    former = {"peers": ("10.0.0.1", "10.0.0.2"), "revoked": ("10.0.0.8",)}
    now = {"peers": ("10.0.0.2", "10.0.0.3"), "revoked": ("10.0.0.8", "10.0.0.9")}

    assert cut_off(former, now) == ("10.0.0.1", "10.0.0.9")
