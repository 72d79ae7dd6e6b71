"""`skyfed proxy` and `skyfed vo`, as people and scripts use them."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization

from skyfed.core.errors import SkyfedError
from skyfed.identity import proxy as proxies
from skyfed.voms.cli import proxy, vo
from support.aai import Authority
from support.pki import NOW, Pki
from support.vectors import vectors
from support.voms import Service


@pytest.fixture(name="env")
def _env(service: Service, pki: Pki, tmp_path: Path) -> dict[str, str]:
    return {
        "X509_USER_CERT": str(pki.usercert("alice")),
        "X509_USER_KEY": str(pki.userkey("alice")),
        "X509_CERT_DIR": str(pki.certificates),
        "X509_VOMS_DIR": str(service.vomsdir),
        "X509_VOMSES": str(service.vomses),
        "VOMS_USERCONF": "",
        "X509_USER_PROXY": str(tmp_path / "x509up"),
        "SKYFED_NODE": str(service.directory),
        "HOME": str(tmp_path),
    }


def run(command: object, env: dict[str, str], *arguments: str, stdin: str = "") -> Result:
    return CliRunner(env=env).invoke(command, list(arguments), input=stdin)  # type: ignore[arg-type]


def done(command: object, env: dict[str, str], *arguments: str, stdin: str = "") -> str:
    result = run(command, env, *arguments, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(command: object, env: dict[str, str], *arguments: str) -> SkyfedError:
    result = run(command, env, *arguments)
    assert isinstance(result.exception, SkyfedError), (result.output, result.exception)
    return result.exception


# -- proxy ------------------------------------------------------------------------------------------------------


def test_a_proxy_is_made_shown_and_destroyed(env: dict[str, str]) -> None:
    said = done(proxy, env, "init", "--voms", "testvo")
    assert "Your proxy is valid until" in said
    path = Path(env["X509_USER_PROXY"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = done(proxy, env, "info")
    assert "type      : RFC3820 compliant impersonation proxy" in shown
    assert "=== VO testvo extension information ===" in shown
    assert "verified  : yes" in shown
    assert "Removed" in done(proxy, env, "destroy")
    assert not path.exists()
    assert refused(proxy, env, "info").code == "no_proxy"


def test_the_options_of_voms_proxy_init_have_their_effect(env: dict[str, str]) -> None:
    done(
        proxy, env, "init", "-voms", "testvo:/testvo/Role=VMManagement", "--voms", "testvo:/testvo/sub/Role=ops",
        "-valid", "2:30", "-rfc", "--limited", "--path-length", "3", "--ec", "--target", "vm.example.org", "-quiet",
    )  # fmt: skip
    found = json.loads(done(proxy, env, "info", "--json"))
    assert found["type"] == "RFC3820 compliant limited proxy"
    assert (found["limited"], found["path_length"], found["strength"]) == (True, 3, 256)
    assert 2.4 * 3600 < found["seconds_left"] <= 2.5 * 3600
    (one,) = found["acs"]
    assert one["attributes"][:2] == [
        "/testvo/Role=VMManagement/Capability=NULL",
        "/testvo/sub/Role=ops/Capability=NULL",
    ]
    assert one["targets"] == ["vm.example.org"]
    assert one["verified"]


def test_several_vos_make_several_attribute_certificates(env: dict[str, str], service: Service, pki: Pki) -> None:
    service.admin.json("POST", "/apply", {"vos": [{"name": "third", "members": [_names(pki)]}]})
    service.publish("testvo", "ops", "third")
    done(proxy, env, "init", "--voms", "third", "--voms", "testvo", "--ec")
    assert done(proxy, env, "info", "-vo").split() == ["third", "testvo"]


def _names(pki: Pki) -> dict[str, str]:
    from support.voms import who

    return {"subject": who(pki.alice).subject, "issuer": who(pki.alice).issuer}


def test_a_proxy_without_a_vo_asks_nobody(env: dict[str, str]) -> None:
    done(proxy, env, "init", "--ec")
    assert json.loads(done(proxy, env, "info", "--json"))["acs"] == []


def test_an_encrypted_key_is_opened_with_its_pass_phrase(env: dict[str, str], pki: Pki, tmp_path: Path) -> None:
    key = tmp_path / "userkey.pem"
    secret = serialization.BestAvailableEncryption(b"open sesame")
    key.write_bytes(pki.alice.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    env["X509_USER_KEY"] = str(key)
    done(proxy, env, "init", "--voms", "testvo", "--ec", "--pwstdin", stdin="open sesame\n")
    assert "verified  : yes" in done(proxy, env, "info")
    done(proxy, env, "init", "--ec", stdin="open sesame\n")
    wrong = run(proxy, env, "init", "--pwstdin", stdin="wrong\n")
    assert isinstance(wrong.exception, SkyfedError)
    assert wrong.exception.code == "key_password"


def test_refusals_say_what_to_do(env: dict[str, str], pki: Pki) -> None:
    assert refused(proxy, env, "init", "--voms", "unknown").code == "no_contact"
    assert refused(proxy, env, "init", "--voms", "testvo:/testvo/none").code == "ac_refused"
    assert refused(proxy, env, "init", "--voms", "testvo:nonsense").code == "fqan"
    assert refused(proxy, env, "init", "--valid", "soon").code == "lifetime"
    assert refused(proxy, env, "init", "--old").code == "legacy_proxy"
    assert refused(proxy, env, "init", "--bits", "512").code == "key_bits"
    assert refused(proxy, env, "init", "--out", "/nonexistent/proxy").code == "unwritable"
    stranger = env | {"X509_USER_CERT": str(pki.usercert("bob")), "X509_USER_KEY": str(pki.userkey("bob"))}
    told = refused(proxy, stranger, "init", "--voms", "testvo")
    assert told.code == "no_such_user"
    assert "User unknown to this VO" in told.message
    assert not Path(env["X509_USER_PROXY"]).exists()


def test_attributes_that_no_site_would_believe_are_told(env: dict[str, str], tmp_path: Path) -> None:
    elsewhere = env | {"X509_VOMS_DIR": str(tmp_path / "none")}
    assert refused(proxy, elsewhere, "init", "--voms", "testvo", "--ec").code == "ac_untrusted_aa"
    done(proxy, elsewhere, "init", "--voms", "testvo", "--ec", "--dont-verify-ac")
    assert "verified  : no (ac_untrusted_aa:" in done(proxy, elsewhere, "info")


def test_warnings_are_shown_or_counted_as_failure(env: dict[str, str]) -> None:
    shown = run(proxy, env, "init", "--voms", "testvo", "--vomslife", "100:00", "--ec")
    assert shown.exit_code == 0
    assert "shortened to 86400 seconds" in shown.stderr
    assert refused(proxy, env, "init", "--voms", "testvo", "--vomslife", "100", "--failonwarn").code == "ac_warning"


def test_scripts_ask_by_exit_code(env: dict[str, str]) -> None:
    assert run(proxy, env, "info", "--exists").exit_code == 1
    done(proxy, env, "init", "--voms", "testvo", "--ec", "--hours", "2")
    assert run(proxy, env, "info", "--exists", "--valid", "1:30").exit_code == 0
    assert run(proxy, env, "info", "--exists", "--valid", "3:00").exit_code == 1
    assert run(proxy, env, "info", "--acexists", "testvo").exit_code == 0
    assert run(proxy, env, "info", "--acexists", "ops").exit_code == 1
    assert done(proxy, env, "info", "--fqan").splitlines()[0] == "/testvo/Role=NULL/Capability=NULL"
    assert 0 < int(done(proxy, env, "info", "--timeleft")) <= 7200


def test_explain_names_the_rule_that_refuses(env: dict[str, str], pki: Pki, service: Service, tmp_path: Path) -> None:
    def explained(credential: object, *more: str) -> tuple[int, str]:
        path = tmp_path / "some.pem"
        proxies.write(credential, path)  # type: ignore[arg-type]
        result = run(proxy, env, "explain", str(path), *more)
        return result.exit_code, result.output

    good = Authority("testvo", "localhost", pki.host).proxy(pki.alice, ("/testvo",))
    code, said = explained(good)
    assert (code, "✗" in said) == (0, False)
    assert "with the rights of testvo" in said
    code, said = explained(proxies.create(pki.revoked, proxies.Proxy(key="ec"), datetime.now(UTC)))
    assert code == 1
    assert "✗ nothing is revoked, by a fresh CRL of the CA\n      revoked (certificate):" in said
    code, said = explained(good, "--at", (NOW + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert code == 1
    assert "expired (proxy 0)" in said
    assert "ac_expired (ac testvo)" in said
    foreign = Authority("testvo", "elsewhere", pki.host).proxy(pki.alice, ("/testvo",))
    code, said = explained(foreign)
    assert code == 0
    assert "without rights in any VO" in said
    assert "ac_untrusted_aa" in said


def test_explain_gives_every_rule_as_json(env: dict[str, str]) -> None:
    folder = vectors("aai")
    result = run(
        proxy, env, "explain", str(folder / "proxies/bad-holder.pem"), "--json", "--at", "2026-11-23T04:40:00Z",
        "--certdir", str(folder / "pki/certificates"), "--vomsdir", str(folder / "pki/vomsdir"),
    )  # fmt: skip
    found = json.loads(result.output)
    assert found["accepted"]
    failed = [rule["code"] for rule in found["rules"] if rule["outcome"] == "failed"]
    assert failed == ["ac_holder"]
    assert len(found["rules"]) > 20


# -- vo ---------------------------------------------------------------------------------------------------------


def test_a_vo_is_run_from_the_command_line(env: dict[str, str], pki: Pki, service: Service, tmp_path: Path) -> None:
    bob = ("--cert", str(pki.usercert("bob")))
    done(vo, env, "create", "cli", "--description", "By command", "--max-hours", "12")
    done(vo, env, "group", "add", "cli", "/cli/lab")
    done(vo, env, "role", "add", "cli", "pi")
    assert "CN=bob" in done(vo, env, "member", "add", "cli", *bob, "--name", "Bob", "--grant", "/cli/lab")
    done(vo, env, "member", "grant", "cli", "/cli/lab/Role=pi", *bob)
    (member,) = json.loads(done(vo, env, "member", "list", "cli", "--json"))
    assert (member["name"], member["groups"], member["roles"]) == ("Bob", ["/cli/lab"], ["/cli/lab/Role=pi"])
    done(vo, env, "member", "suspend", "cli", *bob, "--reason", "on leave")
    assert "suspended" in done(vo, env, "member", "list", "cli")
    done(vo, env, "member", "restore", "cli", *bob)
    done(vo, env, "member", "revoke", "cli", "/cli/lab", *bob)
    assert "By command" in done(vo, env, "list")
    shown = done(vo, env, "show", "cli")
    assert "/cli /cli/lab" in shown
    assert "12 h at most" in shown
    done(vo, env, "member", "remove", "cli", *bob)
    assert json.loads(done(vo, env, "member", "list", "cli", "--json")) == []
    assert refused(vo, env, "create", "cli").code == "vo_exists"


def test_bans_are_set_and_lifted(env: dict[str, str]) -> None:
    done(vo, env, "ban", "/CN=mallory the bad", "--reason", "stolen key")
    assert "stolen key" in done(vo, env, "bans")
    done(vo, env, "unban", "/CN=mallory the bad")
    assert json.loads(done(vo, env, "bans", "--json")) == []


def test_a_declaration_file_is_applied(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "vos.toml"
    file.write_text(
        '[[vos]]\nname = "declared2"\nroles = ["r"]\n[[vos.members]]\nsubject = "/CN=a"\nissuer = "/CN=b"\n'
        'roles = ["/declared2/Role=r"]\n'
    )
    for _ in range(2):
        assert done(vo, env, "apply", str(file)) == "declared2: 1 member\n"
    file.write_text('[[vos]]\nname = "x"\nmember = []\n')
    assert refused(vo, env, "apply", str(file)).code == "body"


def test_who_is_meant_must_be_said(env: dict[str, str]) -> None:
    result = run(vo, env, "member", "remove", "testvo", "--subject", "/CN=a")
    assert result.exit_code == 2
    assert "--issuer" in result.output
