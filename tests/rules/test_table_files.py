"""`flava-port rules --lint FILE` and `--order FILE` read tables and keys from files."""

import json

import pytest

from flava_port.rules.tables import CODEBOOK, FLAVA

GOOD = [["aa.", "x."], ["bb", "y"]]


@pytest.fixture
def lint(run_command, tmp_path):
    """Runs the linter on a table that is given as text or as a JSON value."""

    def run(content, *arguments):
        path = tmp_path / "table.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return run_command("rules", "--lint", path, *arguments)

    return run


def test_our_own_tables_pass(run_command):
    """Our own tables end with status 0, and the output counts their rules and keys."""
    ran = run_command("rules", "--lint")
    assert ran.status == 0, ran.out
    assert "flava: 15 rules on 556 keys, no findings" in ran.out
    assert "codebook: 7 rules on 74 keys, no findings" in ran.out


@pytest.mark.parametrize("table", (FLAVA, CODEBOOK), ids=lambda table: table.name)
def test_our_tables_written_to_a_file_pass(lint, table):
    """Our tables written as JSON lists pass; a third entry marks a rule that works only at the end."""
    assert lint([[r.source, r.target, *["at end"] * r.at_end] for r in table.rules]).status == 0


def test_a_finding_is_exit_status_1(lint):
    """A finding ends with status 1, and is printed with its key."""
    ran = lint([["aa", "x"], ["aa", "y"]])
    assert ran.status == 1
    assert "rule 2: shadowed rule, as aa.weight shows" in ran.out


def test_an_object_may_name_drops_and_keys(lint):
    """A table in an object is judged on the keys that the object gives."""
    ran = lint({"name": "mine", "rules": GOOD, "drops": [["cc", "aa"]], "keys": ["aa.w", "cc.w"]})
    assert ran.status == 1
    assert "mine: 2 rules on 2 keys, 1 finding\nrule 2: dead rule, as bb shows" in ran.out


def test_known_keys_come_from_a_file_of_their_own(lint, tmp_path):
    """The keys of `--known-keys` are used in place of those in the table's file."""
    (tmp_path / "keys").write_text("aa.w\nbb.w\n")
    assert lint({"rules": GOOD, "keys": ["zz"]}, "--known-keys", tmp_path / "keys").status == 0


def test_the_order_of_a_users_table_is_printed(run_command, tmp_path):
    """`--order FILE` prints which rule of a user's table must run first."""
    (tmp_path / "table.json").write_text('[["x.a", "b"], ["a", "c"]]')
    ran = run_command("rules", "--order", tmp_path / "table.json")
    assert ran.status == 0
    assert "rule 1 before rule 2" in ran.out


BAD = {
    "not JSON": ("[[", "not JSON"),
    "a number": ("3", "a table is a list of"),
    "no rules": ("[]", "a table is a list of"),
    "rules that are no list": ({"rules": "x"}, "a table is a list of"),
    "a rule of one": ([["a"]], 'rule 1 is ["a"], not ["from", "to"]'),
    "a rule of numbers": ([["a", "b"], [1, 2]], "rule 2 is [1, 2]"),
    "an empty source": ([["", "b"]], 'rule 1 is ["", "b"]'),
    "a third entry that says nothing": ([["a", "b", "end"]], '["from", "to", "at end"]'),
    "a drop of one": ({"rules": GOOD, "drops": [["a"]]}, "drop 1 is"),
    "drops that are no list": ({"rules": GOOD, "drops": 3}, "'drops' is not a list"),
    "keys that are no strings": ({"rules": GOOD, "keys": [3]}, "'keys' holds something that is not a string"),
    "an entry we do not know": ({"rules": GOOD, "rule": []}, "a table may have name, rules, drops, keys, but not rule"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_exit_status_2_and_one_message(lint, name):
    """A file that is no table ends with status 2 and one line that says what is wrong where."""
    content, message = BAD[name]
    ran = lint(content)
    assert ran.status == 2
    assert message in ran.err and "table.json" in ran.err
    assert ran.err.count("\n") == 1


def test_a_missing_file_is_exit_status_2(run_command, tmp_path):
    """A missing table and a missing file of keys are both named as missing."""
    assert "No such file" in run_command("rules", "--lint", tmp_path / "none").err
    ran = run_command("rules", "--lint", "--known-keys", tmp_path / "none")
    assert ran.status == 2 and "No such file" in ran.err


def test_an_empty_file_of_keys_is_exit_status_2(run_command, tmp_path):
    """An empty file of keys is refused, because it would make every rule look dead."""
    (tmp_path / "keys").write_text("\n")
    ran = run_command("rules", "--lint", "--known-keys", tmp_path / "keys")
    assert ran.status == 2 and "no keys in it" in ran.err


def test_a_key_goes_with_neither_lint_nor_order(run_command):
    """A KEY beside --order is refused with the option that takes keys."""
    ran = run_command("rules", "some.key", "--order")
    assert ran.status == 2 and "--known-keys" in ran.err
