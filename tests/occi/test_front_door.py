"""The OCCI front door over a whole compute service on the simulated engine."""

import base64
import re

import msgspec
import pytest

from occi.schema import conforms
from skyfed.core.settings import convert
from skyfed.identity.mapping import Target
from skyfed.identity.verdict import Verdict
from skyfed.occi.assembly import Settings
from skyfed.occi.wire import json, text
from skyfed.web.access import NO_CREDENTIAL
from support.asgi import acall, accepted
from support.compute_site import KEY
from support.occi_front import INFRA, KIND, ROCCI, URL, Front, attributes, category, member, play
from support.vectors import vectors

TEXTS = ("text/plain", "text/occi", "text/uri-list")
SSH = category(f"{INFRA}/credentials#ssh_key") + f'X-OCCI-Attribute: occi.credentials.ssh.publickey="{KEY}"'
STOP = category(f"{INFRA}/compute/action#stop", "action")
START = category(f"{INFRA}/compute/action#start", "action")
JSON = "application/occi+json"


# --- the query interface ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/-/", "/-", "/.well-known/org/ogf/occi/-/"])
def test_the_model_lists_what_is_served_and_the_vos_templates(tmp_path, path):
    async def story(front: Front):
        answer = await front.call("GET", path)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        model = {one.type_id: one for one in text.parse_body(answer.body).categories}
        compute = model[f"{INFRA}#compute"]
        assert compute.location == "/compute/"
        assert [one.rpartition("#")[2] for one in compute.actions] == ["start", "stop", "restart"]
        assert model[front.os_tpl].depends == (f"{INFRA}#os_tpl",)
        assert model[front.resource_tpl].depends == (f"{INFRA}#resource_tpl",)
        assert f"{INFRA}#storage" not in model, "only what is served is in the model"

    play(tmp_path, story)


def test_categories_are_written_in_the_order_that_rocci_reads(tmp_path):
    part = r'; {}="[^"]*"'
    optional = "".join(f"({part.format(n)})?" for n in ("title", "rel", "location", "attributes", "actions"))
    line = rf'Category: [a-z][a-z0-9_-]*; scheme="[^"]+#"; class="(kind|mixin|action)"{optional}'

    async def story(front: Front):
        await front.site.image("hostile", title='a "b\\", c"; scheme="x')
        model = (await front.call("GET", "/-/")).text.splitlines()
        assert any("a 'b/', c'; scheme='x" in one for one in model)
        for one in model:
            assert re.fullmatch(line, one), one

    play(tmp_path, story)


def test_the_model_in_text_occi_is_one_header_that_splits_at_every_comma(tmp_path):
    async def story(front: Front):
        answer = await front.call("GET", "/-/", accept="text/occi")
        assert answer.text == "OK\n"
        plain = await front.call("GET", "/-/")
        assert len(answer.headers["category"].split(",")) == len(plain.text.splitlines())

    play(tmp_path, story)


@pytest.mark.parametrize("agent", [ROCCI, "skyfed OCCI/1.2", ""])
def test_the_model_in_json_has_the_clients_dialect(tmp_path, agent):
    async def story(front: Front):
        answer = await front.call("GET", "/-/", accept=JSON, agent=agent)
        assert answer.headers["content-type"] == JSON
        model = {one.type_id: one for one in json.parse_model(answer.body)}
        assert front.os_tpl in model
        raw = msgspec.json.decode(answer.body)
        compute = next(one for one in raw["kinds"] if one["term"] == "compute")
        if "1.1" in agent:
            assert compute["attributes"]["occi"]["compute"]["cores"]["type"] == "number"
            assert compute["related"] == ["http://schemas.ogf.org/occi/core#resource"]
            types = {a.type for one in model.values() for a in one.attributes}
            assert types <= {"string", "number", "boolean"}, "rOCCI-core 4 aborts on any other type"
        else:
            assert compute["attributes"]["occi.compute.cores"]["pattern"] == {"type": "integer"}
            conforms(answer.body, "model")

    play(tmp_path, story)


def test_the_dialect_can_be_chosen_by_a_media_type_parameter(tmp_path):
    async def story(front: Front):
        answer = await front.call("GET", "/-/", accept=f"{JSON};version=1.1")
        assert "occi" in msgspec.json.decode(answer.body)["kinds"][0]["attributes"]
        alias = await front.call("GET", "/-/", accept="application/json")
        assert alias.headers["content-type"] == "application/json"

    play(tmp_path, story)


def test_a_category_filters_the_model_and_an_unknown_one_gives_nothing(tmp_path):
    async def story(front: Front):
        field = KIND.removeprefix("Category: ").strip().replace("compute", "os_tpl").replace('"kind"', '"mixin"')
        answer = await front.call("GET", "/-/", content_type="text/occi", category=field)
        found = {one.type_id for one in text.parse_body(answer.body).categories}
        assert found == {f"{INFRA}#os_tpl", front.os_tpl}
        by_query = await front.call("GET", f"/-/?category={INFRA.replace(':', '%3A')}%23os_tpl")
        assert by_query.body == answer.body
        nothing = await front.call("GET", "/-/", category='nix; scheme="http://x#"; class="kind"')
        assert (nothing.status, nothing.body) == (200, b"")

    play(tmp_path, story)


def test_an_unchanged_model_is_304_until_a_new_image_comes(tmp_path):
    async def story(front: Front):
        first = await front.call("GET", "/-/")
        again = await front.call("GET", "/-/", if_none_match=first.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        other_form = await front.call("GET", "/-/", accept="text/occi", if_none_match=first.headers["etag"])
        assert other_form.status == 200
        await front.site.image("fedora-40")
        changed = await front.call("GET", "/-/", if_none_match=first.headers["etag"])
        assert changed.status == 200
        assert "fedora-40" in changed.text

    play(tmp_path, story)


def test_a_vo_sees_only_its_own_images(tmp_path):
    async def story(front: Front):
        secret = await front.site.image("ops-only", vos=frozenset({"ops"}))
        seen = await front.call("GET", "/-/")
        assert secret.os_tpl_term not in seen.text
        body = front.request().replace(front.image.os_tpl_term, secret.os_tpl_term)
        refused = await front.call("POST", "/compute/", body)
        assert refused.status == 400
        assert secret.os_tpl_term in refused.text
        theirs = await front.call("GET", "/-/", who=member("Otto", "ops"))
        assert secret.os_tpl_term in theirs.text

    both = Settings(vos={"demo.skyfed": Target(project="demo"), "ops": Target(project="ops")})
    play(tmp_path, story, settings=both)


# --- creating -----------------------------------------------------------------------------------------------------


def test_a_create_answers_with_every_way_to_find_the_machine(tmp_path):
    async def story(front: Front):
        for accept in TEXTS:
            answer = await front.call("POST", "/compute/", front.request(SSH), accept=accept)
            assert answer.status == 201
            uri = answer.headers["location"]
            assert uri.startswith(f"{URL}/compute/")
            where = {
                "text/plain": answer.text == f"X-OCCI-Location: {uri}\n",
                "text/occi": answer.headers.get("x-occi-location") == uri and answer.text == "OK\n",
                "text/uri-list": answer.text == f"{uri}\n",
            }
            assert where[accept]
        rendered = await front.call("POST", "/compute/", front.request(SSH), accept=JSON)
        assert rendered.status == 201
        conforms(rendered.body, "resource")
        assert rendered.headers["location"].endswith(msgspec.json.decode(rendered.body)["id"])

    play(tmp_path, story)


def test_an_active_machine_shows_sizes_address_and_where_ssh_answers(tmp_path):
    async def story(front: Front):
        path = await front.active('X-OCCI-Attribute: occi.core.title="My VM"', SSH)
        answer = await front.call("GET", path)
        found = attributes(answer)
        assert found["occi.compute.state"] == '"active"'
        assert found["occi.compute.cores"] == "1"
        assert found["occi.compute.memory"] == "0.125", "GiB"
        assert found["occi.compute.architecture"] == '"x64"'
        assert found["occi.core.title"] == '"My VM"'
        assert found["org.skyfed.compute.ssh.host"] == '"127.0.0.1"'
        assert int(found["org.skyfed.compute.ssh.port"]) > 0
        message = text.parse_body(answer.body)
        assert [one.rpartition("#")[2] for one in message.actions] == ["stop", "restart"]
        assert f"<{path}?action=stop>" in answer.text
        link = message.links[0]
        assert link.kind == f"{INFRA}#networkinterface"
        assert link.mixins == (f"{INFRA}/networkinterface#ipnetworkinterface",)
        assert link.attributes["occi.networkinterface.address"] == "10.0.2.15"
        assert (link.target, link.source) == ("/network/default", path), "path-only"
        interface = await front.call("GET", link.location)
        assert attributes(interface)["occi.core.source"] == f'"{path}"'
        assert (await front.call("GET", link.target)).status == 200

    play(tmp_path, story)


@pytest.mark.parametrize("accept", ["text/plain", "text/occi", JSON])
def test_an_entity_says_the_same_in_every_rendering(tmp_path, accept):
    async def story(front: Front):
        path = await front.active(SSH)
        answer = await front.call("GET", path, accept=accept, agent="x OCCI/1.2")
        if accept == "text/occi":
            message = text.parse_fields(answer.headers.items())
        else:
            message = json.parse(answer.body) if accept == JSON else text.parse_body(answer.body)
        assert {front.os_tpl, front.resource_tpl} <= {one.type_id for one in message.categories}
        assert message.attributes["occi.compute.state"] == "active"
        assert message.links[0].attributes["occi.networkinterface.address"] == "10.0.2.15"
        assert len(message.actions) == 2
        if accept == JSON:
            conforms(answer.body, "resource")

    play(tmp_path, story)


def test_the_context_reaches_the_guest_in_both_spellings(tmp_path):
    data = "#!/bin/sh\necho hällo\n".encode()
    encoded = base64.b64encode(data).decode()
    spellings = [
        (
            f"{INFRA}/compute#user_data",
            "occi.compute.userdata",
            f"{INFRA}/credentials#ssh_key",
            "occi.credentials.ssh.publickey",
        ),
        (
            f"{INFRA}/compute#user_data",
            "occi.compute.user_data",
            f"{INFRA}/credentials#ssh_key",
            "occi.credentials.ssh_key",
        ),
        (
            "http://schemas.openstack.org/compute/instance#user_data",
            "org.openstack.compute.user_data",
            "http://schemas.openstack.org/instance/credentials#public_key",
            "org.openstack.credentials.publickey.data",
        ),
    ]

    async def story(front: Front):
        for data_mixin, data_name, key_mixin, key_name in spellings:
            path = await front.active(
                category(data_mixin) + category(key_mixin) + f'X-OCCI-Attribute: {data_name}="{encoded}"',
                f'X-OCCI-Attribute: {key_name}="{KEY}"',
                'X-OCCI-Attribute: occi.compute.hostname="My_VM"',
            )
            context = front.site.host.machines[path.rpartition("/")[2]].spec.context
            assert context.user_data == data
            assert context.ssh_keys == (KEY,)
            assert context.hostname == "my-vm", "rOCCI-cli sends the title as host name"
            assert encoded not in (await front.call("GET", path)).text

    play(tmp_path, story)


def test_the_same_uuid_gives_the_same_machine_and_other_ids_are_ignored(tmp_path):
    async def story(front: Front):
        token = "91578e6a-86e4-461a-9daa-b756fabc8682"
        line = f'X-OCCI-Attribute: occi.core.id="{token}"'
        first = await front.create(line)
        assert await front.create(line) == first
        assert await front.create(line, who=member("Bob")) != first
        odd = 'X-OCCI-Attribute: occi.core.id="Compute_1712"'
        assert await front.create(odd) != await front.create(odd)

    play(tmp_path, story)


def test_a_create_over_headers_and_in_both_json_dialects_is_understood(tmp_path):
    async def story(front: Front):
        lines = front.request('X-OCCI-Attribute: occi.core.title="a, b"').splitlines()
        categories = ", ".join(line.removeprefix("Category: ") for line in lines if line.startswith("Category"))
        over_headers = await front.call(
            "POST",
            "/compute/",
            content_type="text/occi",
            accept="text/occi",
            category=categories,
            x_occi_attribute='occi.core.title="a, b"',
        )
        assert over_headers.status == 201
        shown = await front.call("GET", over_headers.headers["location"].removeprefix(URL))
        assert attributes(shown)["occi.core.title"] == '"a, b"'
        entity = {"kind": f"{INFRA}#compute", "mixins": [front.os_tpl, front.resource_tpl], "title": "x"}
        flat = {**entity, "attributes": {"occi.compute.cores": 1}}
        nested = {"resources": [{**entity, "attributes": {"occi": {"compute": {"cores": 1}}}}]}
        for body in (flat, nested):
            answer = await front.call("POST", "/compute/", msgspec.json.encode(body), content_type=JSON, accept=JSON)
            assert answer.status == 201
            assert msgspec.json.decode(answer.body)["title"] == "x"

    play(tmp_path, story)


def test_terms_are_matched_without_regard_to_case(tmp_path):
    async def story(front: Front):
        answer = await front.call("POST", "/compute/", front.request().replace("Category: tiny", "Category: Tiny"))
        assert answer.status == 201

    play(tmp_path, story)


def test_a_create_without_templates_gets_the_defaults_or_is_told_what_there_is(tmp_path):
    async def story(front: Front):
        answer = await front.call("POST", "/compute/", KIND)
        assert answer.status == 400
        assert front.image.os_tpl_term in answer.text
        defaulting = front.again(default_os_tpl=front.os_tpl, default_resource_tpl=front.resource_tpl)
        assert (await defaulting.call("POST", "/compute/", KIND)).status == 201

    play(tmp_path, story)


BAD_CREATES = {
    "no kind": ("", ["class kind"], 400),
    "another kind": (KIND.replace("compute", "network"), ["network", "computes"], 400),
    "unknown kind": (KIND.replace("compute", "storage"), ["storage", "/-/"], 400),
    "unknown mixin": (category("http://example.org/x#y"), ["http://example.org/x#y"], 400),
    "mixin of a link": (category(f"{INFRA}/networkinterface#ipnetworkinterface"), ["does not apply"], 400),
    "action": (STOP, ["class 'action'"], 400),
    "unknown attribute": ('X-OCCI-Attribute: occi.compute.colour="red"\n', ["occi.compute.colour"], 400),
    "attribute without its mixin": (f'X-OCCI-Attribute: occi.credentials.ssh.publickey="{KEY}"\n', ["publickey"], 400),
    "immutable": ('X-OCCI-Attribute: occi.compute.state="active"\n', ["occi.compute.state", "immutable"], 400),
    "type": ('X-OCCI-Attribute: occi.compute.cores="many"\n', ["occi.compute.cores", "'many'", "whole number"], 400),
    "fraction": ("X-OCCI-Attribute: occi.compute.cores=1.5\n", ["occi.compute.cores"], 400),
    "choice": ('X-OCCI-Attribute: occi.compute.architecture="arm"\n', ["x86, x64"], 400),
    "size": ("X-OCCI-Attribute: occi.compute.cores=64\n", ["occi.compute.cores", "64", "tiny"], 409),
    "memory": ("X-OCCI-Attribute: occi.compute.memory=512\n", ["occi.compute.memory"], 409),
    "kind twice": (KIND + KIND, ["twice"], 409),
    "missing value": (category(f"{INFRA}/compute#user_data"), ["occi.compute.userdata", "required"], 400),
    "not base64": (
        category(f"{INFRA}/compute#user_data") + 'X-OCCI-Attribute: occi.compute.userdata="n o t"\n',
        ["occi.compute.userdata", "base64"],
        400,
    ),
    "user data too long": (
        category(f"{INFRA}/compute#user_data")
        + f'X-OCCI-Attribute: occi.compute.userdata="{base64.b64encode(b"x" * 65537).decode()}"\n',
        ["65537", "65536"],
        413,
    ),
    "no key": (
        category(f"{INFRA}/credentials#ssh_key") + 'X-OCCI-Attribute: occi.credentials.ssh.publickey="hello"\n',
        ["ssh-ed25519"],
        400,
    ),
    "key not ASCII": (
        category(f"{INFRA}/credentials#ssh_key") + f'X-OCCI-Attribute: occi.credentials.ssh.publickey="{KEY} é"\n',
        ["ASCII"],
        400,
    ),
    "private key": (
        category(f"{INFRA}/credentials#ssh_key")
        + 'X-OCCI-Attribute: occi.credentials.ssh.publickey="-----BEGIN OPENSSH PRIVATE KEY-----"\n',
        ["private key"],
        400,
    ),
    "both spellings": (
        category(f"{INFRA}/compute#user_data") + category("http://schemas.openstack.org/compute/instance#user_data"),
        ["user data", "send one"],
        409,
    ),
    "storage link": (f'Link: </storage/1>; rel="{INFRA}#storage"\n', ["/storage/1"], 400),
    "link abroad": (f'Link: <http://169.254.169.254/x>; rel="{INFRA}#network"\n', ["169.254"], 400),
    "long title": (f'X-OCCI-Attribute: occi.core.title="{"x" * 256}"\n', ["occi.core.title", "256"], 400),
    "long value": (f'X-OCCI-Attribute: occi.core.summary="{"x" * 5000}"\n', ["occi.core.summary", "4096"], 413),
    "unterminated": ('X-OCCI-Attribute: occi.core.title="' + "x" * 65536, ["closing quote"], 400),
    "many categories": ("".join(category(f"http://x#t{n}") for n in range(3000)), ["100 categories"], 413),
    "no line": ("hello\n", ["hello"], 400),
}


@pytest.mark.parametrize("name", BAD_CREATES)
def test_a_bad_create_is_refused_precisely_and_leaves_nothing_behind(tmp_path, name):
    addition, words, status = BAD_CREATES[name]

    async def story(front: Front):
        body = front.request() + addition
        if name in ("no kind", "another kind", "unknown kind"):
            body = body.removeprefix(KIND)
        answer = await front.call("POST", "/compute/", body)
        assert (answer.status, [word for word in words if word not in answer.text]) == (status, []), answer.text
        assert len(answer.text.splitlines()) == 1
        assert answer.headers["x-request-id"]
        assert front.site.service.list(None) == ()
        assert not front.site.host.machines

    play(tmp_path, story)


def test_two_templates_of_one_family_are_a_conflict(tmp_path):
    async def story(front: Front):
        answer = await front.call(
            "POST", "/compute/", front.request() + category(front.resource_tpl.replace("tiny", "large"))
        )
        assert answer.status == 409
        assert "resource_tpl" in answer.text

    play(tmp_path, story)


def test_the_default_network_may_be_asked_for_and_64_kib_of_user_data_are_taken(tmp_path):
    async def story(front: Front):
        encoded = base64.b64encode(b"x" * 65536).decode()
        path = await front.active(
            category(f"{INFRA}/compute#user_data") + f'X-OCCI-Attribute: occi.compute.userdata="{encoded}"',
            f'Link: <{URL}/network/default>; rel="{INFRA}#network"; category="{INFRA}#networkinterface"',
        )
        assert len(front.site.host.machines[path.rpartition("/")[2]].spec.context.user_data) == 65536

    play(tmp_path, story)


def test_a_full_quota_is_403_with_the_numbers(tmp_path):
    async def story(front: Front):
        from skyfed.compute.settings import LimitSettings

        limited = msgspec.structs.replace(front.site.settings, default_quota=LimitSettings(vms=1))
        front.site.service._settings = limited
        await front.create()
        answer = await front.call("POST", "/compute/", front.request())
        assert answer.status == 403
        assert "1 of 1 machines" in answer.text

    play(tmp_path, story)


# --- listing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/compute/", "/compute"])
def test_a_collection_is_absolute_locations_in_text_and_entities_in_json(tmp_path, path):
    async def story(front: Front):
        assert (await front.call("GET", path)).body == b""
        assert msgspec.json.decode((await front.call("GET", path, accept=JSON)).body) == {"resources": []}
        one, two = await front.active(SSH), await front.active(SSH)
        uris = [URL + one, URL + two]
        plain = await front.call("GET", path)
        assert list(text.parse_body(plain.body).locations) == uris
        header = await front.call("GET", path, accept="text/occi")
        assert header.headers["x-occi-location"] == ", ".join(uris)
        listed = await front.call("GET", path, accept="text/uri-list")
        assert list(text.parse_uri_list(listed.body)) == uris
        full = await front.call("GET", path, accept=JSON)
        conforms(full.body, "resource_collection")
        assert [f"{URL}/compute/{one['id']}" for one in msgspec.json.decode(full.body)["resources"]] == uris

    play(tmp_path, story)


def test_collections_of_mixins_parents_and_everything_are_unions(tmp_path):
    async def story(front: Front):
        path = await front.active(SSH)
        for where in (
            "/resource/",
            "/mixin/os_tpl/",
            f"/mixin/os_tpl/{front.image.os_tpl_term}/",
            "/mixin/resource_tpl/tiny/",
        ):
            assert URL + path in (await front.call("GET", where)).text, where
        assert (await front.call("GET", "/mixin/resource_tpl/large/")).body == b""
        links = await front.call("GET", "/link/", accept=JSON)
        conforms(links.body, "link_collection")
        everything = await front.call("GET", "/")
        assert len(everything.text.splitlines()) == 3, "machine, network, interface"

    play(tmp_path, story)


def test_lists_are_filtered_and_paged(tmp_path):
    async def story(front: Front):
        named = await front.active('X-OCCI-Attribute: occi.core.title="web"')
        other = await front.active('X-OCCI-Attribute: occi.core.title="db"')
        by_attribute = await front.call("GET", "/compute/", x_occi_attribute='occi.core.title="web"')
        assert by_attribute.text == f"X-OCCI-Location: {URL}{named}\n"
        large = 'large; scheme="' + front.resource_tpl.removesuffix("tiny") + '"; class="mixin"'
        assert (await front.call("GET", "/compute/", content_type="text/occi", category=large)).body == b""
        second = await front.call("GET", "/compute/?page=2&number=1")
        assert second.text == f"X-OCCI-Location: {URL}{other}\n"
        assert (await front.call("GET", "/compute/?page=9;number=1")).body == b""
        assert (await front.call("GET", "/compute/?number=1001")).status == 413
        assert (await front.call("GET", "/compute/?page=0&number=1")).status == 400

    play(tmp_path, story)


# --- acting and deleting ------------------------------------------------------------------------------------------


def test_stop_start_and_restart_answer_200_ok(tmp_path):
    async def story(front: Front):
        path = await front.active(SSH)
        stopped = await front.call("POST", f"{path}?action=stop", STOP)
        assert (stopped.status, stopped.text) == (200, "OK\n"), "pOCCI takes a 204 for a failure"
        await front.state(path, "inactive")
        shown = await front.call("GET", path)
        assert attributes(shown)["occi.compute.state"] == '"inactive"'
        assert [one.rpartition("#")[2] for one in text.parse_body(shown.body).actions] == ["start"]
        assert (await front.call("POST", f"{path}?action=start", START, accept="text/occi")).text == "OK\n"
        await front.state(path, "active")
        graceful = {"action": f"{INFRA}/compute/action#restart", "attributes": {"method": "graceful"}}
        restarted = await front.call(
            "POST", f"{path}?action=restart", msgspec.json.encode(graceful), content_type=JSON, accept=JSON
        )
        assert restarted.status == 200
        conforms(restarted.body, "resource")

    play(tmp_path, story)


def test_an_action_without_a_body_is_what_the_url_says(tmp_path):
    async def story(front: Front):
        path = await front.active()
        assert (await front.call("POST", f"{path}?action=stop")).status == 200
        await front.state(path, "inactive")

    play(tmp_path, story)


BAD_ACTIONS = {
    "mismatch": ("?action=start", STOP, 400, "same"),
    "unknown": ("?action=explode", "", 400, "explode"),
    "of another kind": ("?action=up", category(f"{INFRA}/network/action#up", "action"), 400, "network/action#up"),
    "not offered": ("?action=suspend", category(f"{INFRA}/compute/action#suspend", "action"), 501, "suspend"),
    "method": ("?action=stop", STOP + 'X-OCCI-Attribute: method="shoot"\n', 400, "graceful, acpioff, poweroff"),
    "attribute": ("?action=stop", STOP + 'X-OCCI-Attribute: force="1"\n', 400, "'force'"),
    "a kind": ("?action=stop", KIND, 400, "class action"),
    "no action": ("", KIND, 501, "?action="),
    "twice": ("?action=stop&action=start", STOP, 400, "2 times"),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_a_bad_action_is_refused_and_nothing_happens(tmp_path, name):
    query, body, status, word = BAD_ACTIONS[name]

    async def story(front: Front):
        path = await front.active()
        answer = await front.call("POST", path + query, body)
        assert (answer.status, word in answer.text) == (status, True), answer.text
        assert front.site.service.get(path.rpartition("/")[2], None).observed == "active"

    play(tmp_path, story)


def test_an_action_that_the_state_does_not_allow_is_409_and_what_is_so_already_is_200(tmp_path):
    async def story(front: Front):
        path = await front.active()
        assert (await front.call("POST", f"{path}?action=start", START)).status == 200
        await front.call("POST", f"{path}?action=stop", STOP)
        await front.state(path, "inactive")
        answer = await front.call("POST", f"{path}?action=restart")
        assert answer.status == 409
        assert "stopped" in answer.text

    play(tmp_path, story)


def test_an_action_on_the_collection_is_for_the_callers_own_and_for_all_or_none(tmp_path):
    async def story(front: Front):
        one, two = await front.active(), await front.active()
        bobs = await front.active(who=member("Bob"))
        assert (await front.call("POST", "/compute/?action=stop", STOP)).status == 200
        for path in (one, two):
            await front.state(path, "inactive")
        assert front.site.service.get(bobs.rpartition("/")[2], None).observed == "active"
        await front.call("POST", f"{one}?action=start")
        await front.state(one, "active")
        assert (await front.call("POST", "/compute/?action=restart")).status == 409

    play(tmp_path, story)


def test_a_deleted_machine_is_gone_at_once(tmp_path):
    async def story(front: Front):
        path = await front.active()
        for accept, status in (("text/plain", 200), (JSON, 204)):
            path = await front.active()
            assert (await front.call("DELETE", path, accept=accept)).status == status
            assert (await front.call("GET", path)).status == 404
            assert (await front.call("DELETE", path)).status == 404

    play(tmp_path, story)


def test_deleting_the_collection_deletes_the_callers_own_and_nobody_elses(tmp_path):
    async def story(front: Front):
        one, two = await front.active(), await front.active()
        bobs = await front.active(who=member("Bob"))
        assert (await front.call("DELETE", "/compute/")).status == 200
        assert (await front.call("GET", "/compute/")).text == f"X-OCCI-Location: {URL}{bobs}\n"
        for path in (one, two):
            await front.site.gone(path.rpartition("/")[2])

    play(tmp_path, story)


# --- who may --------------------------------------------------------------------------------------------------------


def test_a_colleague_sees_but_may_not_touch_and_an_administrator_may(tmp_path):
    async def story(front: Front):
        path = await front.active()
        bob = member("Bob")
        assert (await front.call("GET", path, who=bob)).status == 200
        for method, target in (("DELETE", path), ("POST", f"{path}?action=stop")):
            assert (await front.call(method, target, who=bob)).status == 403
        assert (await front.call("DELETE", path, who=member("Carol", "demo.skyfed", "VMManagement"))).status == 200

    play(tmp_path, story)


def test_another_vos_machine_does_not_exist(tmp_path):
    async def story(front: Front):
        path = await front.active()
        otto = member("Otto", "ops")
        interface = text.parse_body((await front.call("GET", path)).body).links[0].location
        for method, target in (("GET", path), ("DELETE", path), ("POST", f"{path}?action=stop"), ("GET", interface)):
            answer = await front.call(method, target, who=otto)
            assert answer.status == 404, target
        assert (await front.call("GET", "/compute/", who=otto)).body == b""
        assert (await front.call("GET", path)).status == 200

    both = Settings(vos={"demo.skyfed": Target(project="demo"), "ops": Target(project="ops")})
    play(tmp_path, story, settings=both)


def test_a_vo_that_is_not_accepted_is_told_so_and_what_is(tmp_path):
    async def story(front: Front):
        for method, path in (("GET", "/-/"), ("GET", "/compute/"), ("POST", "/compute/"), ("GET", "/nothing")):
            answer = await front.call(method, path, who=member("Eve", "other.vo"))
            assert answer.status == 403
            assert "other.vo" in answer.text
            assert "demo.skyfed" in answer.text
        without = await front.call("GET", "/-/", who=accepted())
        assert without.status == 403
        assert "no membership" in without.text

    play(tmp_path, story)


def test_a_limited_proxy_may_look_but_not_make(tmp_path):
    async def story(front: Front):
        full = member()
        assert full.principal is not None
        limited = Verdict(principal=msgspec.structs.replace(full.principal, limited=True), findings=())
        assert (await front.call("GET", "/-/", who=limited)).status == 200
        answer = await front.call("POST", "/compute/", front.request(), who=limited)
        assert answer.status == 403
        assert "limited" in answer.text
        assert front.site.service.list(None) == ()

    play(tmp_path, story)


def test_nobody_gets_in_without_a_credential_and_hears_why(tmp_path):
    async def story(front: Front):
        for path in ("/-/", "/.well-known/org/ogf/occi/-/", "/compute/", "/compute/x", "/nothing"):
            for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT"):
                answer = await front.call(method, path, who=NO_CREDENTIAL)
                assert answer.status == 401, (method, path)
                assert method == "HEAD" or "skyfed proxy init" in answer.text
                assert "www-authenticate" in answer.headers

    play(tmp_path, story)


def test_the_whole_door_refuses_by_itself_in_the_callers_rendering(tmp_path):
    from skyfed.web.front import front_door

    class NeverAsked:
        def judge(self, chain, /):
            raise AssertionError("no chain, nothing to judge")

    async def story(front: Front):
        door = front_door(front.assembly, service="occi", judge=NeverAsked(), clock=front.site.clock)
        answer = await acall(door, "GET", "/-/", headers={"accept": "text/occi"})
        assert answer.status == 401
        assert "skyfed proxy init" in answer.headers["x-occi-error"]
        assert "OCCI/1.2" in answer.headers["server"]

    play(tmp_path, story)


# --- HTTP -----------------------------------------------------------------------------------------------------------


def test_every_answer_names_its_versions_and_what_is_read_and_varies(tmp_path):
    async def story(front: Front):
        path = await front.active()
        for method, target in (("GET", "/-/"), ("GET", path), ("GET", "/nothing"), ("OPTIONS", path), ("PUT", "/-/")):
            answer = await front.call(method, target)
            assert "OCCI/1.1 OCCI/1.2" in answer.headers["server"]
            assert "application/occi+json" in answer.headers["accept"]
            assert answer.headers["vary"] == "Accept, User-Agent"

    play(tmp_path, story)


def test_versions_up_to_1_2_are_spoken_and_newer_are_501(tmp_path):
    async def story(front: Front):
        for agent, status in (
            (ROCCI, 200),
            ("x OCCI/1.2", 200),
            ("curl/8", 200),
            ("x OCCI/1.3", 501),
            ("OCCI/2.0", 501),
        ):
            assert (await front.call("GET", "/-/", agent=agent)).status == status, agent

    play(tmp_path, story)


def test_a_state_that_a_version_does_not_know_is_told_in_its_words(tmp_path):
    async def story(front: Front):
        front.site.host.boot_faults.append("no such disk")
        path = await front.create()
        await front.state(path, "error")
        seen = {
            agent: attributes(await front.call("GET", path, agent=agent))["occi.compute.state"]
            for agent in (ROCCI, "x OCCI/1.2", "curl/8")
        }
        assert seen == {ROCCI: '"inactive"', "x OCCI/1.2": '"error"', "curl/8": '"error"'}
        assert "no such disk" in (await front.call("GET", path)).text

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("accept", "path", "status"),
    [
        ("image/png", "/-/", 406),
        ("text/uri-list", "/-/", 406),
        ("text/uri-list", "/compute/", 200),
        ("*/*", "/-/", 200),
        ("", "/-/", 200),
        ("text/plain,text/occi;q=0.2", "/-/", 200),
        ("text/occi+plain", "/-/", 200),
        ("text/html, application/json;q=0.5", "/-/", 200),
    ],
)
def test_the_answer_is_in_a_type_that_was_asked_for(tmp_path, accept, path, status):
    async def story(front: Front):
        assert (await front.call("GET", path, accept=accept)).status == status

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 201),
        ("text/plain", 201),
        ("text/plain; charset=utf-8", 201),
        ("text/plain,text/occi", 201),
        ("text/x-occi", 201),
        ("application/xml", 415),
        ("application/x-www-form-urlencoded", 415),
        ("nonsense", 415),
        ("application/occi+json", 400),
    ],
)
def test_content_types_are_read_as_clients_send_them(tmp_path, content_type, status):
    async def story(front: Front):
        answer = await front.call("POST", "/compute/", front.request(), content_type=content_type)
        assert answer.status == status, answer.text
        assert len(front.site.service.list(None)) == (status == 201)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("PUT", "/compute/", 405, "GET, HEAD, OPTIONS, POST, DELETE"),
        ("PATCH", "/compute/x", 405, "GET, HEAD, OPTIONS, POST, PUT, DELETE"),
        ("PUT", "/-/", 405, "GET, HEAD, OPTIONS, POST, DELETE"),
        ("POST", "/-/", 501, ""),
        ("POST", "/network/", 501, ""),
        ("DELETE", "/network/default", 501, ""),
        ("PUT", "/compute/x", 501, ""),
        ("DELETE", "/", 501, ""),
        ("POST", "/storage/", 404, ""),
        ("GET", "/compute/nope", 404, ""),
        ("GET", "/network/nope", 404, ""),
        ("GET", "/networkinterface/nope", 404, ""),
        ("GET", "/compute/a/b", 404, ""),
        ("GET", "/compute/../-/", 400, ""),
        ("GET", "/compute/%00", 400, ""),
        ("GET", "/compute/%ff", 400, ""),
        ("GET", "/" + "x" * 3000, 400, ""),
        ("GET", "/-/?" + "x" * 9000, 413, ""),
    ],
)
def test_paths_and_methods_that_are_not_defined_say_so(tmp_path, method, path, status, allow):
    async def story(front: Front):
        answer = await front.call(method, path)
        assert answer.status == status, answer.text
        assert answer.headers.get("allow", "") == allow

    play(tmp_path, story)


def test_head_is_get_without_the_body_and_options_says_what_may_be_done(tmp_path):
    async def story(front: Front):
        got = await front.call("GET", "/-/")
        head = await front.call("HEAD", "/-/")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(got.body))
        options = await front.call("OPTIONS", "/compute/")
        assert options.status == 204
        assert "POST" in options.headers["allow"]

    play(tmp_path, story)


def test_an_error_comes_in_the_callers_rendering(tmp_path):
    async def story(front: Front):
        plain = await front.call("GET", "/compute/nope", accept="text/plain")
        assert plain.text.count("\n") == 1
        header = await front.call("GET", "/compute/nope", accept="text/occi")
        assert "'nope'" in header.headers["x-occi-error"]
        json_error = msgspec.json.decode((await front.call("GET", "/compute/nope", accept=JSON)).body)
        assert json_error["status"] == 404
        assert "'nope'" in json_error["error"]
        assert json_error["request_id"]

    play(tmp_path, story)


def test_a_body_over_a_mebibyte_is_413(tmp_path):
    async def story(front: Front):
        assert (await front.call("POST", "/compute/", b"x" * (1 << 20) + b"yy")).status == 413

    play(tmp_path, story)


def test_a_service_under_a_path_prefix_puts_it_in_front_of_every_location(tmp_path):
    async def story(front: Front):
        model = await front.call("GET", "/occi1.1/-/")
        assert 'location="/occi1.1/compute/"' in model.text
        assert (await front.call("GET", "/.well-known/org/ogf/occi/-/")).status == 200
        assert (await front.call("GET", "/-/")).status == 404
        answer = await front.call("POST", "/occi1.1/compute/", front.request())
        assert answer.headers["location"].startswith(f"{URL}/occi1.1/compute/")
        path = answer.headers["location"].removeprefix(URL)
        await front.state(path, "active")
        link = text.parse_body((await front.call("GET", path)).body).links[0]
        assert (link.target, link.source) == ("/occi1.1/network/default", path)
        assert (await front.call("GET", link.location)).status == 200

    play(tmp_path, story, url=f"{URL}/occi1.1")


def test_without_a_configured_url_the_host_header_is_used_if_it_is_one(tmp_path):
    async def story(front: Front):
        answer = await front.call("POST", "/compute/", front.request(), host="cloud.example.org:1234")
        assert answer.headers["location"].startswith("https://cloud.example.org:1234/compute/")
        assert (await front.call("GET", "/compute/", host='evil"><x')).status == 400

    play(tmp_path, story, url="")


def test_settings_are_read_from_toml_tables(tmp_path):
    tables = {"vos": {"demo.skyfed": {"project": "demo"}}, "os_tpl_scheme": "http://x/os_tpl#"}
    settings = convert(tables, Settings, source="node.toml")
    assert settings.vos["demo.skyfed"].all == ("demo",)


def test_the_schema_itself_refuses_what_is_no_occi():
    with pytest.raises(AssertionError):
        conforms(b'{"kind": "a#b"}', "resource")
    with pytest.raises(AssertionError):
        conforms(b'{"kind": "a#b", "id": "1", "colour": "red"}', "resource")
    assert (vectors("occi") / "occi-1.2" / "OCCI-schema.json").is_file()
