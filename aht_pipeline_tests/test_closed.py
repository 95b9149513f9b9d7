"""Nothing secret lies or shows where others look, nobody gets in from elsewhere, and what the API sends stays data."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import psutil
import pytest
import sqlalchemy as sa
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aht_pipeline import embedded, warehouse
from aht_pipeline.embedded import EmbeddedServer
from aht_pipeline.embedded.place import Place, State
from aht_pipeline.home import open_pipeline, prepare_dagster_home
from aht_pipeline.settings import Variables, read_settings, read_variables
from aht_pipeline.simulator import Credentials, ErrorStatus, ExplicitTraffic, Simulator, When, segment
from aht_pipeline_tests.loading import query
from aht_pipeline_tests.outside import YESTERDAY, Outside, days_ago, of_account
from aht_pipeline_tests.reading import Answer, Asked, Scripted, reply

NOON = datetime.combine(YESTERDAY, clock(12), UTC)
FORBIDDEN_DAY = days_ago(2)
A_SIMULATORS_TOKEN = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."  # so they all begin
PROCESS_LIST_EVERY_S = 0.2


class Secrets:
    """Secrets that nothing else contains, with signs in them that JSON and URLs write otherwise."""

    NAMES = ("client", "app", "token", "token_secret", "bearer", "warehouse", "wrong", "aws", "webhook", "proxy")

    def __init__(self) -> None:
        self.cores = {name: uuid.uuid4().hex.encode() for name in self.NAMES} | {"simulator": A_SIMULATORS_TOKEN}

    def __getitem__(self, name: str) -> str:
        return f'a/b+"{self.cores[name].decode()}'

    def in_url(self, name: str) -> str:
        return quote(self[name], safe="")

    def found_in(self, content: bytes) -> set[str]:
        return {name for name, core in self.cores.items() if core in content}


class Onlooker:
    """Another user of this machine, who reads the process list again and again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._enough.wait(PROCESS_LIST_EVERY_S):
            self.seen |= {" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


@dataclass
class Life:
    """What an eventful life of two accounts has shown and left: one with a warehouse of its own, one without.

    listening: address and port of every process that took part.
    socket_folders: where the code servers' sockets lay, and their modes.
    values: every value in every database.
    embedded_password: of the second account's server.
    """

    directory: Path
    secrets: Secrets
    given: Outside
    own: Outside
    outputs: dict[str, str] = field(default_factory=dict)
    process_list: set[str] = field(default_factory=set)
    listening: set[tuple[str, int]] = field(default_factory=set)
    socket_folders: dict[Path, int] = field(default_factory=dict)
    values: dict[str, list[bytes]] = field(default_factory=dict)
    embedded_password: bytes = b""

    def run(self, name: str, account: Outside, *arguments: str, exit_code: int = 0, **variables: str) -> None:
        done = account.run(*arguments, exit_code=exit_code, **variables)
        self.outputs[name] = done.stdout + done.stderr


@pytest.fixture(scope="module")
def life(embedded_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    directory, secrets = tmp_path_factory.mktemp("closed"), Secrets()
    given, own = Outside(directory / "given"), Outside(directory / "own")
    life = Life(directory, secrets, given, own)
    accepted = Credentials(client_secret=secrets["client"])
    try:
        with (
            umask(0),
            a_warehouse(embedded_server, secrets) as url,
            closing_server(echoing(secrets)) as api,
            Simulator(ExplicitTraffic([segment(1, NOON)]), credentials=accepted) as simulator,
            Onlooker() as onlooker,
            ThreadPoolExecutor(3) as at_once,
        ):
            simulator.set_faults(ErrorStatus(403, when=When(day=FORBIDDEN_DAY)))
            configure(life, simulator, api, url)
            life.run("migrate", given, "migrate")
            tried = [at_once.submit(attempt, life) for attempt in attempts(secrets, api, url)]
            tried.append(at_once.submit(ask_with_app_keys, life, api))
            run_in_the_ui(life)
            for one in tried:
                one.result()
            life.process_list = onlooker.seen
            life.values["warehouse"] = values_of(warehouse.engine(url))
            for file in given.home.rglob("*.db"):
                life.values[str(file)] = values_of(sa.create_engine(f"sqlite:///{file}"))
            server = embedded.start(own.home)
            life.values["Dagster's"] = values_of(warehouse.engine(server.url("dagster")))
            life.embedded_password = server.password.encode()
        yield life
    finally:
        embedded.remove(own.home)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def a_warehouse(server: EmbeddedServer, secrets: Secrets) -> Iterator[str]:
    """The URL of an empty database and of a role that owns it, with a password of ours."""
    name, administrator = f"closed_{uuid.uuid4().hex}", warehouse.engine(server.url("postgres"))
    with administrator.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{secrets['warehouse']}'")
        connection.exec_driver_sql(f"CREATE DATABASE {name} OWNER {name}")
        try:
            yield f"postgresql://{name}:{secrets.in_url('warehouse')}@127.0.0.1:{server.port}/{name}"
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def echoing(secrets: Secrets) -> Scripted:
    """An API, and an object store, that tell whom they refuse all that he sent."""

    def echo(asked: Asked) -> dict[str, str]:
        return {"message": f"not with {asked.authorization} nor with {unquote_plus(asked.body)}", "reason": asked.body}

    def grant(asked: Asked) -> Answer:
        if secrets.found_in(asked.body.encode()) != {"client"}:
            return Answer(echo(asked), 401)
        return Answer({"access_token": secrets["bearer"], "expires_in": 3600})

    def answer(asked: Asked) -> Answer:
        if "/agent-segments" not in asked.path:
            return Answer(f"<Error><Code>Denied</Code><Message>{echo(asked)}</Message></Error>".encode(), 403)
        if asked.authorization.startswith("OAuth"):
            return Answer(echo(asked), 401)
        start, end = asked.window
        refusal = asked.query.get("ConversationId") or ("403" if start.date() == FORBIDDEN_DAY else None)
        if refusal:
            return Answer(echo(asked), int(refusal), {"Retry-After": "86400"})
        rows = [segment(2, NOON)] if start <= NOON <= end else []
        return reply(asked, rows, pagination={"count": len(rows)})

    return Scripted(answer, grant)


@contextmanager
def closing_server(server: Scripted) -> Iterator[Scripted]:
    try:
        yield server
    finally:
        server.stop()


def configure(life: Life, simulator: Simulator, api: Scripted, url: str) -> None:
    """The one by a `.env`, the other by its environment, which finds files that others may read in its place."""
    secrets = life.secrets
    variables = simulator.variables | {
        "LIVEPERSON_API_URL": api.url,
        "WAREHOUSE_URL": url,
        "AHT_START_DATE": str(FORBIDDEN_DAY),
        "AHT_ALERT_WEBHOOK_URL": f"https://hooks.example.test/{secrets.in_url('webhook')}",
    }
    life.given.directory.mkdir()
    (life.given.directory / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
    life.own.directory.mkdir()
    life.own.variables |= simulator.variables | {"AHT_START_DATE": str(FORBIDDEN_DAY)}
    for name in ("dagster.yaml", "pgpass"):
        (life.own.home / "dagster").mkdir(parents=True, exist_ok=True)
        (life.own.home / "dagster" / name).touch(0o666)


@dataclass(frozen=True)
class Attempt:
    name: str
    arguments: tuple[str, ...]
    exit_code: int = 1
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, life: Life) -> None:
        life.run(self.name, life.given, *self.arguments, exit_code=self.exit_code, **self.variables)


def attempts(secrets: Secrets, api: Scripted, url: str) -> list[Attempt]:
    """What the first account tries; what takes longest comes first, as its faults are waited out."""
    wrong_password = {"WAREHOUSE_URL": url.replace(secrets.in_url("warehouse"), secrets.in_url("wrong"))}
    away = {"WAREHOUSE_URL": url.replace("127.0.0.1", "127.0.0.2")}
    object_store = {
        "AHT_ARCHIVE_URL": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": api.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": secrets["aws"],
    }
    proxy = {
        "LIVEPERSON_API_URL": "https://127.0.0.1:1",
        "HTTPS_PROXY": f"http://user:{secrets.in_url('proxy')}@127.0.0.1:1",
        "NO_PROXY": "",
    }
    return [
        Attempt("500", ("segments", "--conversation", "500")),
        Attempt("through a proxy", ("segments",), variables=proxy),
        Attempt("load", ("load",)),
        Attempt("up, warehouse away", ("up",), variables=away),
        Attempt("load, archive refused", ("load",), variables=object_store),
        Attempt("load, wrong password", ("load",), variables=wrong_password),
        Attempt("psql", ("psql", "-c", "select pg_sleep(1)"), 0),
        Attempt("wrong secret", ("segments",), variables={"LIVEPERSON_CLIENT_SECRET": secrets["wrong"]}),
        *(Attempt(status, ("segments", "--conversation", status)) for status in ("403", "429")),
        Attempt("doctor", ("doctor",), 0),
        Attempt("doctor, wrong password", ("doctor",), variables=wrong_password),
        Attempt("status, warehouse away", ("status",), 2, variables=away),
        Attempt(
            "migrate, wrong password", ("migrate",), variables={"WAREHOUSE_ADMIN_URL": wrong_password["WAREHOUSE_URL"]}
        ),
    ]


def ask_with_app_keys(life: Life, api: Scripted) -> None:
    client = {"LIVEPERSON_CLIENT_ID": "", "LIVEPERSON_CLIENT_SECRET": "", "LIVEPERSON_API_URL": api.url}
    life.run("app keys refused", life.own, "segments", exit_code=1, **client, **app_keys(life.secrets))


def app_keys(secrets: Secrets) -> dict[str, str]:
    return {
        "LIVEPERSON_APP_KEY": "app-key",
        "LIVEPERSON_APP_SECRET": secrets["app"],
        "LIVEPERSON_ACCESS_TOKEN": secrets["token"],
        "LIVEPERSON_ACCESS_TOKEN_SECRET": secrets["token_secret"],
    }


def run_in_the_ui(life: Life) -> None:
    """The second account's days, in a run that the UI launches: one is refused, one is loaded."""
    with life.own.up() as url:
        launched = ask(url, LAUNCH, first=str(FORBIDDEN_DAY), last=str(YESTERDAY))["launchPipelineExecution"]
        while (status := ask(url, STATUS, run=launched["run"]["runId"])["runOrError"]["status"]) not in ENDED:
            look_at_processes(life)
            time.sleep(0.5)
        assert status == "FAILURE"
        life.outputs["instance"] = ask(url, "{ instance { info } }")["instance"]["info"]
    life.run("doctor of the embedded", life.own, "doctor")


def look_at_processes(life: Life) -> None:
    """Where `up`, all that it started, the embedded server and this process with its simulator listen."""
    noted = [int(pid) for pid in json.loads((life.own.home / "up.json").read_text())]
    postmaster = int((Place.of(life.own.home).data / "postmaster.pid").read_text().split()[0])
    for process in map(psutil.Process, {*noted, postmaster, os.getpid()}):
        for each in [process, *process.children(recursive=True)]:
            try:
                connections = each.net_connections("all")
            except psutil.Error:
                continue  # it has just ended
            for connection in connections:
                if connection.status == psutil.CONN_LISTEN:
                    life.listening.add((connection.laddr.ip, connection.laddr.port))
                elif isinstance(connection.laddr, str) and connection.laddr.startswith("/") and process.pid in noted:
                    folder = Path(connection.laddr).parent
                    life.socket_folders[folder] = folder.stat().st_mode & 0o777


def ask(url: str, statement: str, **variables: str) -> dict[str, Any]:
    body = json.dumps({"query": statement, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data


ENDED = ("SUCCESS", "FAILURE", "CANCELED")
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
LAUNCH = """
    mutation($first: String!, $last: String!) {
      launchPipelineExecution(executionParams: {
        mode: "default"
        selector: {
          repositoryName: "__repository__", repositoryLocationName: "aht_pipeline.definitions"
          pipelineName: "__ASSET_JOB", assetSelection: [{path: "raw_agent_segments"}, {path: "agent_segments"}]
        }
        executionMetadata: {tags: [
          {key: "dagster/asset_partition_range_start", value: $first}
          {key: "dagster/asset_partition_range_end", value: $last}
        ]}
      }) { ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
    }
"""


def values_of(database: sa.Engine) -> list[bytes]:
    """Every value of every table; what Dagster compresses is decompressed."""
    inspector = sa.inspect(database)
    found = []
    with database.connect() as connection:
        for schema in {*inspector.get_schema_names()} - {"information_schema"}:
            for table in inspector.get_table_names(schema):
                everything = sa.select(sa.text("*")).select_from(sa.table(table, schema=schema))
                found += [_plain(value) for row in connection.execute(everything) for value in row]
    return found


def _plain(value: object) -> bytes:
    if not isinstance(value, bytes | memoryview):
        return str(value).encode()
    try:
        return zlib.decompress(value)
    except zlib.error:
        return bytes(value)


def files_of(life: Life) -> Iterator[tuple[Path, bytes]]:
    """Every file of both accounts, relative to their directory; the archive's decompressed."""
    for file in sorted(life.directory.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            if file.suffix == ".zst":
                content = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(content)
            yield file.relative_to(life.directory), content


def test_all_of_it_happened(life: Life) -> None:
    """Else the tests below would find nothing for another reason."""
    assert life.embedded_password
    told = {name for name, output in life.outputs.items() if "***" in output}
    assert told >= {"load", "wrong secret", "app keys refused", "403", "429", "500"}
    assert f"{YESTERDAY}          1 segments" in life.outputs["load"]
    assert any(b"403 Forbidden" in value for value in life.values["Dagster's"])
    assert any(
        b"403 Forbidden" in value for name, values in life.values.items() if name.endswith(".db") for value in values
    )
    assert b"demo" in life.values["warehouse"]
    kept = {file.suffixes[-1] for file, _ in files_of(life) if "archive" in file.parts}
    assert kept == {".zst", ".json"}
    for part in ("aht-pipeline load", "psql -d", "--instance-ref", "dagster_webserver", "dagster._daemon"):
        assert any(part in line for line in life.process_list), part


def test_no_command_tells_a_secret(life: Life) -> None:
    for name, output in life.outputs.items():
        assert life.secrets.found_in(output.encode()) == set(), name
        assert life.embedded_password not in output.encode(), name


def test_no_file_and_no_database_keeps_a_secret_but_those_that_are_for_it(life: Life) -> None:
    for file, content in files_of(life):
        if file != Path("given/.env"):
            assert life.secrets.found_in(content) == set(), file
    for name, values in life.values.items():
        content = b"\n".join(values)
        assert life.secrets.found_in(content) == set(), name
        assert life.embedded_password not in content, name


def test_files_with_the_embedded_servers_password_are_their_owners_alone(life: Life) -> None:
    holding = {str(file) for file, content in files_of(life) if life.embedded_password in content}
    assert holding == {"own/.aht/postgres/server.json", "own/.aht/dagster/pgpass"}
    private = [
        *holding,
        "own/.aht/dagster/dagster.yaml",
        "own/.aht/postgres/postgres.log",
        "given/.aht/dagster/dagster.yaml",
    ]
    assert {file: (life.directory / file).stat().st_mode & 0o777 for file in private} == dict.fromkeys(private, 0o600)


def test_the_process_list_shows_no_secret(life: Life) -> None:
    for line in life.process_list:
        assert life.secrets.found_in(line.encode()) == set(), line[:200]
        assert life.embedded_password not in line.encode(), line[:200]


def test_everything_listens_on_this_machine_only(life: Life) -> None:
    assert {address for address, _ in life.listening if not ip_address(address).is_loopback} == set()
    assert embedded.start(life.own.home).port in {port for _, port in life.listening}
    assert len(life.listening) >= 4  # the UI, the server, the simulator, the echoing API


def test_only_we_can_talk_to_the_code_servers(life: Life) -> None:
    assert life.socket_folders
    assert set(life.socket_folders.values()) == {0o700}
    assert [folder for folder in life.socket_folders if folder.exists()] == []


def test_a_state_file_that_others_may_read_is_closed_when_it_is_written(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for file in (place.state_file, place.state_file.with_suffix(".new")):
        file.touch()
        file.chmod(0o666)
    place.write_state(State("a password", 5432))
    assert place.state_file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No variable of ours, an empty directory."""
    for name in Variables.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_a_dagster_home_of_the_users_own_stays_as_it_is(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "instance"
    own.mkdir(mode=0o755)
    (own / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    (own / "dagster.yaml").chmod(0o644)
    before = [(file.name, file.stat().st_mode, file.stat().st_mtime_ns) for file in (own, *own.iterdir())]
    for name in ("ACCOUNT_ID", "CLIENT_ID", "CLIENT_SECRET"):
        environment.setenv(f"LIVEPERSON_{name}", "1")
    environment.setenv("DAGSTER_HOME", str(own))
    assert prepare_dagster_home(read_settings()) == own
    assert [(file.name, file.stat().st_mode, file.stat().st_mtime_ns) for file in (own, *own.iterdir())] == before


@pytest.mark.parametrize("kind", ["client", "app"])
def test_no_object_that_knows_a_secret_shows_it(
    environment: pytest.MonkeyPatch, tmp_path: Path, database_url: str, kind: str
) -> None:
    secrets = Secrets()
    warehouse.upgrade(database_url)
    url = sa.make_url(database_url)
    variables = {
        "LIVEPERSON_ACCOUNT_ID": "1",
        "AHT_START_DATE": str(YESTERDAY),
        "AHT_ALERT_WEBHOOK_URL": f"https://hooks.example.test/{secrets.in_url('webhook')}",
        "WAREHOUSE_URL": database_url,
        "WAREHOUSE_ADMIN_URL": f"postgresql://user:{secrets.in_url('warehouse')}@host/database",
    }
    if kind == "client":
        variables |= {"LIVEPERSON_CLIENT_ID": "id", "LIVEPERSON_CLIENT_SECRET": secrets["client"]}
    else:
        variables |= app_keys(secrets)
    for name, value in variables.items():
        environment.setenv(name, value)
    settings = read_settings()
    with open_pipeline(settings) as pipeline:
        pipeline._connected()
        knowing = [
            settings,
            read_variables(),
            settings.keys,
            pipeline,
            *vars(pipeline).values(),
            pipeline.warehouse.url,
        ]
        shown = " ".join(f"{each!r} {each}" for each in knowing)
    assert secrets.found_in(shown.encode()) == set()
    assert str(url.password) not in shown


HOSTILE = [
    "'); DROP TABLE aht.agent_segments; --",
    "\\.",
    "first\n\\.\nlast",
    "\r\n\\.\r\n",
    "\\N",
    '"quoted", and "" more',
    "%s %(account_id)s %% {0} :account_id $1 $$",
    '{NULL,"a"}',
    "\t\b\\x41 \u202e\u2028\ufeff😀",
]


def test_what_the_api_sends_is_data_whatever_it_looks_like(tmp_path: Path, database_url: str) -> None:
    rows = [
        segment(
            number,
            NOON,
            segmentId=f"{number} {text}",
            conversationId=text,
            employeeId=text,
            endReason=text,
        )
        | {text: {text: [text]}}
        for number, text in enumerate(HOSTILE)
    ]
    refused = [segment(100 + number, NOON, agentId=text) for number, text in enumerate(HOSTILE)]
    with Simulator(ExplicitTraffic([*rows, *refused])) as simulator:
        account = of_account(tmp_path, simulator, database_url, start=YESTERDAY)
        account.run("load", AHT_MAX_REJECTED_PERCENT="100")

    database = warehouse.engine(database_url)
    columns = "segment_id, conversation_id, employee_id, end_reason, extra"
    assert query(
        database, f"SELECT {columns} FROM aht.agent_segments ORDER BY split_part(segment_id, ' ', 1)::int"
    ) == [(f"{number} {text}", text, text, text, {text: {text: [text]}}) for number, text in enumerate(HOSTILE)]
    raw = query(database, "SELECT raw FROM aht.rejected_segments")
    assert sorted(json.loads(each)["agentId"] for each in raw) == sorted(HOSTILE)


def test_a_server_whose_certificate_nobody_vouches_for_is_refused_until_somebody_does(tmp_path: Path) -> None:
    authority, context = an_authority_and_its_server(tmp_path)
    server = Scripted(lambda asked: reply(asked, [segment(1, NOON)], pagination={"count": 1}), tls=context)
    account = Outside(
        tmp_path,
        {
            "LIVEPERSON_ACCOUNT_ID": "demo",
            "LIVEPERSON_CLIENT_ID": "id",
            "LIVEPERSON_CLIENT_SECRET": "secret",
            "LIVEPERSON_API_URL": server.url,
        },
    )
    with closing_server(server):
        refused = account.run("segments", exit_code=1)
        assert "the server's certificate is not trusted" in refused.stderr
        assert (refused.stdout, server.asked) == ("", [])
        trusted = account.run("segments", REQUESTS_CA_BUNDLE=str(authority))
    assert json.loads(trusted.stdout) == segment(1, NOON)


def test_a_host_outside_liveperson_is_asked_only_where_its_url_is_given(tmp_path: Path) -> None:
    with Simulator(ExplicitTraffic([segment(1, NOON)]), base_uri="liveperson.example.test") as simulator:
        account = Outside(tmp_path, simulator.variables)
        account.run("segments")
        refused = account.run("segments", exit_code=1, LIVEPERSON_API_URL="", LIVEPERSON_DOMAIN_API_URL=simulator.url)
    assert "liveperson.example.test" in refused.stderr
    assert "set LIVEPERSON_AGENT_ACTIVITY_URL" in refused.stderr


def an_authority_and_its_server(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The certificate of an authority that nobody knows, and TLS as 127.0.0.1 with one that it signed."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("us", "127.0.0.1")
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        dated(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(SIGNS_CERTIFICATES, critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        dated(authority_name, name, key)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(key.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "authority.pem", context


def dated(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    number, now = x509.random_serial_number(), datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), number, now - timedelta(days=1), now + timedelta(days=1)
    )


SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
