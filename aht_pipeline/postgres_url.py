"""A URL of Postgres, read in one place and by libpq itself, so that it means the same to us and to psql."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg2")
_LIKE = "like postgresql://user:password@host:5432/database"
_ENCODE = "in a password or a name, write @ as %40, / as %2F, : as %3A and % as %25"

# libpq splits a URL so: at the first @ that no / precedes, then at the first / or ?.
_PARTS = re.compile(r"(?:[^@/]*@)?(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL)
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?", re.DOTALL)

# Unlike the password they could reach psql only in its arguments, which every user of the machine sees.
_UNSHOWN = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
# libpq reads these only while it connects.
_WHOLE_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_NOWHERE = "/dev/null"  # no socket can be in it
_DEFAULT_PORT = "5432"


@dataclass(frozen=True)
class PostgresUrl:
    """What a URL says, as the parameters of libpq; what it leaves out, libpq looks for where it always does.

    parameters: decoded, the password among them.
    """

    parameters: Mapping[str, str] = field(repr=False)

    @property
    def password(self) -> str | None:
        return self.parameters.get("password") or None

    @property
    def complete(self) -> str:
        """The URL for psql and every other client of libpq, password included: not for a log."""
        return _written(self.parameters)

    @property
    def shown(self) -> str:
        """The same without the password."""
        return _written({name: value for name, value in self.parameters.items() if name != "password"})

    @property
    def place(self) -> str:
        """Where it leads, for messages: `host:5432, database "warehouse"`."""
        database = self.parameters.get("dbname") or self.parameters.get("user") or "of the user's name"
        if "service" in self.parameters:
            return f'the service "{self.parameters["service"]}", database "{database}"'
        hosts = (self.parameters.get("host") or self.parameters.get("hostaddr") or "").split(",")
        ports = self.parameters.get("port", "").split(",")
        servers = [
            f"{_bracketed(host) or 'the local socket'}:{port or _DEFAULT_PORT}"
            for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=True)
        ]
        return f'{",".join(servers)}, database "{database}"'


def read_postgres_url(text: str) -> PostgresUrl:
    """Read a URL: every form that libpq takes, and SQLAlchemy's `postgresql+psycopg2://`; a blank is read as %20.

    Raises ValueError where libpq could not connect by it; the text begins with a verb, says what is wrong, and repeats
    nothing that may be a secret.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(f"must be a Postgres URL, {_LIKE}")
    _check_parts(rest)
    parameters = _parsed(rest)
    for name in _UNSHOWN:
        if name in parameters:
            raise ValueError(f"must not hold the parameter {name}: such a secret stands in a service file")
    _check_ports(parameters)
    _check_values(parameters)
    return PostgresUrl(parameters)


def _check_parts(rest: str) -> None:
    """Refuse what libpq would understand, but hardly as it was meant: mostly a password that is not encoded."""
    parts = _PARTS.fullmatch(rest)
    assert parts is not None  # noqa: S101 - everything matches
    if "@" in parts["hosts"] + (parts["database"] or ""):
        raise ValueError(f"cannot be read: {_ENCODE}")
    for part in parts["hosts"].split(","):
        host = _HOST.fullmatch(part)
        if host is None or (host["port"] and not re.fullmatch("[0-9]+", host["port"])):
            raise ValueError(f"names no port after a host's colon; {_ENCODE}. An IPv6 address is written [::1]")
        if host["port"] == "":
            raise ValueError("names no port after a host's colon: write the port, or leave the colon out")
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        raise ValueError(f"cannot be read: after % stand two hexadecimal digits; {_ENCODE}")
    if "%00" in rest:
        raise ValueError("must not hold %00, the NUL character")


def _parsed(rest: str) -> Mapping[str, str]:
    import psycopg2  # what works without a warehouse starts without it
    from psycopg2.extensions import parse_dsn

    try:
        return parse_dsn("postgresql://" + rest.replace(" ", "%20"))
    except UnicodeError:
        raise ValueError("cannot be read: what it holds percent-encoded is no UTF-8") from None
    except psycopg2.ProgrammingError:  # its text repeats the value
        raise ValueError(_unknown_parameter(rest.partition("?")[2])) from None


def _unknown_parameter(query: str) -> str:
    import psycopg2
    from psycopg2.extensions import parse_dsn

    for written in query.split("&"):
        try:
            parse_dsn("postgresql://?" + written.replace(" ", "%20"))
        except psycopg2.ProgrammingError:
            # A password that holds / and ? is taken for parameters; then it is before an @.
            name = "" if "@" in query else f": {unquote(written.partition('=')[0])!r}"
            return f"has a parameter that libpq does not know, or that is not written as name=value{name}"
    return f"cannot be read: it must be {_LIKE}, with an IPv6 address written as [::1]"


def _check_ports(parameters: Mapping[str, str]) -> None:
    ports = parameters.get("port", "").split(",")
    if not all(port == "" or (re.fullmatch("[0-9]{1,9}", port) and 1 <= int(port) <= 65535) for port in ports):
        raise ValueError("names a port that is none: one is from 1 to 65535")
    hosts = [parameters[name].split(",") for name in ("hostaddr", "host") if parameters.get(name)]
    if len({len(names) for names in hosts}) > 1:
        raise ValueError("must name as many hosts in host as addresses in hostaddr")
    count = len(hosts[0]) if hosts else 1
    if len(ports) not in (1, count):
        raise ValueError(f"names {len(ports)} ports for {count} hosts: name one for all, or one for each")


def _check_values(parameters: Mapping[str, str]) -> None:
    """Have libpq judge the values (as `sslmode`) as it does before it connects, with a host that cannot be there."""
    import psycopg2
    from psycopg2.extensions import make_dsn

    for name in _WHOLE_NUMBERS:
        if name in parameters and not re.fullmatch("-?[0-9]{1,9}", parameters[name]):
            raise ValueError(f"must hold a whole number as {name}, not {parameters[name]!r}")
    # Without a password libpq would look for a file of passwords; encryption by GSSAPI it refuses for a socket.
    elsewhere = {"host": _NOWHERE, "hostaddr": "", "port": _DEFAULT_PORT, "password": "none"}
    if parameters.get("gssencmode") == "require":
        elsewhere["gssencmode"] = "disable"
    try:
        psycopg2.connect(make_dsn(**{**parameters, **elsewhere})).close()
    except psycopg2.OperationalError as error:
        words = " ".join(str(error).split())
        if f"{_NOWHERE}/.s.PGSQL." not in words:
            raise ValueError(f"is refused by libpq, perhaps for one of the variables PG…: {words}") from None


def _written(parameters: Mapping[str, str]) -> str:
    """A URL that libpq reads as exactly these parameters: what its usual parts cannot tell stands behind the ?."""
    rest = dict(parameters)

    def part(name: str) -> str:
        return quote(rest.pop(name), safe="") if rest.get(name) else ""

    servers = _servers(rest.get("host", ""), rest.get("port"))
    if servers:
        del rest["host"]
        rest.pop("port", None)
    user, password = part("user"), part("password")
    credentials = f"{user}:{password}@" if password else f"{user}@" if user else ""
    database = part("dbname")
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in rest.items())
    return f"postgresql://{credentials}{servers}/{database}" + (f"?{query}" if query else "")


def _servers(host: str, port: str | None) -> str:
    """Hosts with their ports, as between @ and /; empty where libpq would not read just these parameters there."""
    hosts, ports = host.split(","), (port or "").split(",")
    if not all(hosts) or len(hosts) != len(ports) or (port == "" if len(hosts) == 1 else port is None):
        return ""
    return ",".join(
        _bracketed(quote(each, safe=":")) + (f":{port}" if port else "")
        for each, port in zip(hosts, ports, strict=True)
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
