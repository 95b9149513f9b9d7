"""Every setting of the pipeline: read from the environment and `.env` once, checked once, secrets never printed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    ValidationError,
    field_validator,
)

from aht_pipeline.credentials import AppKeys, ClientCredentialKeys, is_loopback
from aht_pipeline.days import yesterday
from aht_pipeline.environment import Given, read_given, refuse_unseen
from aht_pipeline.errors import SettingsError
from aht_pipeline.postgres_url import read_postgres_url
from aht_pipeline.services import URL_VARIABLES

DEMO_ACCOUNT = "demo"

_DEFAULT_START = timedelta(days=27)  # before the first start: what the API still remembers
_OBJECT_STORES = ("s3", "gs", "az", "file")
_CRON_FIELDS = 5
_NO_ZONES = ("localtime", "factory")  # files beside those of zones: whatever this machine's is, and none at all
_FIRST_YEAR = 2000  # long before there was such an API; every day since the start date is looked at


def _identifier(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]{1,20}", value):
        raise ValueError("must be 1 to 20 letters, digits and underscores (no hyphen)")
    return value


def _account(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError("must be the account's number: letters and digits only")
    return value


def _split(value: str) -> SplitResult:
    try:
        return urlsplit(value)
    except ValueError:  # its text repeats the value
        raise ValueError("cannot be read as a URL") from None


def _https(value: str) -> str:
    url = _split(value)
    if url.scheme not in ("https", "http") or not url.hostname:
        raise ValueError("must be a URL that begins with https://")
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise ValueError("must begin with https://: secrets go there, and http is for a server on this machine only")
    if "@" in url.netloc:
        raise ValueError("must hold no user and password: they have variables of their own")
    _check_host(url)
    return value.rstrip("/")


def _base(value: str) -> str:
    url = _split(_https(value))
    if url.query or url.fragment:
        raise ValueError("must be the base of other URLs: no ? and no # in it")
    return value.rstrip("/")


def _check_host(url: SplitResult) -> None:
    _check_port(url)
    name = (url.hostname or "").removesuffix(".")
    if not (":" in name or all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in name.split("."))):
        raise ValueError(f"names no host: {name!r} cannot be one")


def _check_port(url: SplitResult) -> None:
    try:
        _ = url.port
    except ValueError:
        raise ValueError("must name one host, and a port from 1 to 65535 or none") from None


def _web(value: str) -> str:
    url = _split(value)
    if url.scheme not in ("https", "http") or not url.hostname:
        raise ValueError("must be a URL that begins with https:// or http://")
    return value.rstrip("/")


def _secret_https(value: SecretStr) -> SecretStr:
    _https(value.get_secret_value())
    return value


def _postgres(value: SecretStr) -> SecretStr:
    read_postgres_url(value.get_secret_value())
    return value


def _path(value: str) -> str:
    """One that is meant as it stands: `$HOME` would be the name of a folder."""
    if re.search(r"\$\{\w+|(^|/)\$\w+(/|$)", value):
        raise ValueError("holds a $NAME, in whose place nothing is put: write the path out (~ is the home folder)")
    return value


def _folder(value: str) -> str:
    if "://" in value:
        raise ValueError("must be a folder of this machine, as a path")
    return _path(value)


def _archive(value: str) -> str:
    _path(value)
    scheme, separator, _ = value.partition("://")
    if re.match(r"[A-Za-z0-9]+:(?!//)", value):
        raise ValueError("must be a folder, or the URL of an object store with :// in it")
    if scheme == "file" and not value.startswith("file:///"):
        raise ValueError("must name a folder with its whole path: file:///…")
    if separator and scheme in _OBJECT_STORES and not value.partition("://")[2].strip("/"):
        raise ValueError("names no bucket and no folder")
    if separator and scheme not in _OBJECT_STORES:
        raise ValueError(f"must be a folder or the URL of an object store ({', '.join(_OBJECT_STORES)}://…)")
    if separator and ("@" in _split(value).netloc or "?" in value):
        raise ValueError("must hold no credentials: those of an object store have variables of their own, as AWS_…")
    return value


def _zone(value: str) -> str:
    """The zone's name as IANA writes it: only some file systems would find it in another case."""
    for names in (lambda: (files("tzdata") / "zones").read_text().split(), available_timezones):  # the latter is slow
        for name in names():
            if name.lower() == value.lower() and name.lower() not in _NO_ZONES:
                return name
    raise ValueError(f"{value!r} is no known time zone: use an IANA name such as Europe/London")


def _cron(value: str) -> str:
    try:
        CronSim(value, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{value!r} is no cron expression of five fields, like '15 3 * * *': {error}") from None
    if len(value.split()) != _CRON_FIELDS or re.search(r"LW|[0-9]L", value, re.IGNORECASE):
        raise ValueError(f"{value!r} is no cron expression that Dagster knows: five fields, like '15 3 * * *'")
    return value


def _whole(lowest: int, highest: int) -> BeforeValidator:
    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not lowest <= int(value) <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(value)

    return BeforeValidator(read)


def _percent(value: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) or float(value) > 100:
        raise ValueError("must be a number from 0 to 100, written as 5 or 0.5")
    return float(value)


def _switch(value: str) -> bool:
    if value.lower() in ("on", "true", "yes", "1"):
        return True
    if value.lower() in ("off", "false", "no", "0"):
        return False
    raise ValueError("must be on or off")


def _day(value: str) -> date:
    """Only as it is documented: else a number would be taken for seconds since 1970."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("must be a day, written as 2026-11-20")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value} is in no calendar: it must be a day, written as 2026-11-20") from None


def _possible_start(value: date) -> date:
    if value.year < _FIRST_YEAR:
        raise ValueError(f"{value} is too early: nothing was counted before {_FIRST_YEAR}")
    return value


class Variables(BaseModel):
    """The variables by their names in lower case, each checked by itself."""

    model_config = ConfigDict(hide_input_in_errors=True)

    liveperson_account_id: Annotated[str, AfterValidator(_account)] | None = None
    liveperson_client_id: str | None = None
    liveperson_client_secret: SecretStr | None = None
    liveperson_app_key: str | None = None
    liveperson_app_secret: SecretStr | None = None
    liveperson_access_token: SecretStr | None = None
    liveperson_access_token_secret: SecretStr | None = None
    liveperson_api_url: Annotated[str, AfterValidator(_base)] | None = None
    liveperson_agent_activity_url: Annotated[str, AfterValidator(_base)] | None = None
    liveperson_sentinel_url: Annotated[str, AfterValidator(_base)] | None = None
    liveperson_account_config_url: Annotated[str, AfterValidator(_base)] | None = None
    liveperson_domain_api_url: Annotated[str, AfterValidator(_base)] = "https://api.liveperson.net"
    aht_source: Annotated[str, AfterValidator(_identifier)] = "aht_pipeline"
    aht_page_size: Annotated[int, _whole(1, 500)] = 500
    aht_concurrency: Annotated[int, _whole(1, 64)] = 4
    aht_start_date: Annotated[date, BeforeValidator(_day), AfterValidator(_possible_start)] | None = None
    aht_timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    aht_lookback_days: Annotated[int, _whole(1, 27)] = 3
    aht_schedule: Annotated[str, AfterValidator(_cron)] = "15 3 * * *"
    aht_max_rejected_percent: Annotated[float, BeforeValidator(_percent)] = 5
    aht_agent_names: Annotated[bool, BeforeValidator(_switch)] = True
    aht_home: Annotated[Path, BeforeValidator(_folder)] = Path(".aht")
    aht_archive_url: Annotated[str, AfterValidator(_archive)] | None = None
    warehouse_url: Annotated[SecretStr, AfterValidator(_postgres)] | None = None
    warehouse_admin_url: Annotated[SecretStr, AfterValidator(_postgres)] | None = None
    dagster_home: Annotated[Path, BeforeValidator(_folder)] | None = None
    aht_alert_webhook_url: Annotated[SecretStr, AfterValidator(_secret_https)] | None = None
    aht_ui_url: Annotated[str, AfterValidator(_web)] | None = None

    _seen = field_validator("*", mode="before")(refuse_unseen)  # comes before all others

    @property
    def names_credentials(self) -> bool:
        return any(
            (
                self.liveperson_client_id,
                self.liveperson_client_secret,
                self.liveperson_app_key,
                self.liveperson_app_secret,
                self.liveperson_access_token,
                self.liveperson_access_token_secret,
            )
        )


@dataclass(frozen=True)
class Settings:
    """The settings as the pipeline uses them: complete, consistent, every path absolute.

    demo: works on the demo home, with the simulator as the API; nothing that is configured is touched.
    keys: None where no credentials are set; what needs the API is refused then.
    service_urls: of services that have a URL of their own, by the Domain API's names of them.
    warehouse_url, warehouse_admin_url: None for the embedded server of `home`.
    dagster_home_is_given: the user's own, used as it is.
    agent_names: whether names of agents are kept and shown; those of skills and groups always are.
    """

    demo: bool
    home: Path
    account_id: str | None
    keys: ClientCredentialKeys | AppKeys | None
    service_urls: Mapping[str, str]
    api_url: str | None
    domain_api_url: str
    source: str
    page_size: int
    concurrency: int
    given_start_date: date | None
    timezone: str
    lookback_days: int
    schedule: str
    max_rejected_percent: float
    agent_names: bool
    archive_url: str
    warehouse_url: str | None = field(repr=False)
    warehouse_admin_url: str | None = field(repr=False)
    dagster_home: Path
    dagster_home_is_given: bool
    alert_webhook_url: str | None = field(repr=False)
    ui_url: str | None
    environment: Mapping[str, str] = field(repr=False)
    """The variables that give a process in any directory these same settings."""
    unused: tuple[str, ...] = ()
    """The variables that are set, and of which the demo makes no use."""

    @property
    def start_date(self) -> date:
        """The first day: as given, else as remembered in the home, else 27 days before today."""
        if self.given_start_date:
            return self.given_start_date
        if self._start_date_file.exists():
            return self._remembered_start_date()
        return yesterday(self.timezone, datetime.now(UTC)) + timedelta(days=1) - _DEFAULT_START

    def remember_start_date(self) -> None:
        """Keep the first start's date for good, so that the first day never moves by itself."""
        if self.warehouse_url is None and not self._start_date_file.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            self._start_date_file.write_text(f"{self.start_date}\n")

    def _remembered_start_date(self) -> date:
        try:
            day = date.fromisoformat(self._start_date_file.read_text().strip())
        except ValueError:
            raise SettingsError(
                f"{self._start_date_file} holds no day: write the first day to load into it, as 2026-11-20, or set "
                "AHT_START_DATE"
            ) from None
        _refuse_a_day_to_come(str(self._start_date_file), day, self.timezone)
        return day

    @property
    def _start_date_file(self) -> Path:
        return self.home / "start-date"

    def require_account(self) -> str:
        if self.account_id is None:
            raise SettingsError("LIVEPERSON_ACCOUNT_ID is not set: it says whose segments these are")
        return self.account_id

    def require_keys(self) -> ClientCredentialKeys | AppKeys:
        if self.keys is None:
            raise SettingsError(
                "no LivePerson credentials are set: set LIVEPERSON_CLIENT_ID and LIVEPERSON_CLIENT_SECRET (or the four "
                "variables of OAuth 1.0: LIVEPERSON_APP_KEY, LIVEPERSON_APP_SECRET, LIVEPERSON_ACCESS_TOKEN, "
                "LIVEPERSON_ACCESS_TOKEN_SECRET)"
            )
        return self.keys


def given_variables() -> Given:
    """What is set, in the environment and in `.env` of the working directory. Raises SettingsError as `read_given`."""
    return read_given(Variables.model_fields)


def read_settings(given: Given | None = None) -> Settings:
    """The settings of what is set: of `given`, where it was read before.

    With neither LivePerson credentials nor WAREHOUSE_URL: those of the demo. Raises SettingsError, naming the variable.
    """
    given = given or given_variables()
    variables = _checked(given)
    is_demo = not variables.names_credentials and variables.warehouse_url is None
    settings = _demo(variables) if is_demo else _real(variables, given)
    _ = settings.start_date  # a remembered one may be wrong
    return settings


def read_demo_settings(given: Given | None = None) -> Settings:
    """The settings of the demo, whatever else is set: only AHT_HOME counts."""
    return _demo(_checked(given or given_variables()))


def read_variables() -> Variables:
    """The variables, each checked by itself. Raises SettingsError that names every wrong one."""
    return _checked(given_variables())


def _checked(given: Given) -> Variables:
    try:
        variables = Variables.model_validate(given.values)
    except ValidationError as error:
        faults = [f"{str(fault['loc'][0]).upper()}: {_reason(fault)}" for fault in error.errors()]
        raise SettingsError("\n".join(faults)) from None
    if variables.aht_start_date:
        _refuse_a_day_to_come("AHT_START_DATE", variables.aht_start_date, variables.aht_timezone)
    return variables


def _refuse_a_day_to_come(where: str, first: date, timezone: str) -> None:
    today = yesterday(timezone, datetime.now(UTC)) + timedelta(days=1)
    if first > today:
        raise SettingsError(
            f"{where}: {first}, the first day to load, is still to come: today is {today} in {timezone}"
        )


def _reason(fault: Any) -> str:
    return str(fault["msg"]).removeprefix("Value error, ")


def _demo(variables: Variables) -> Settings:
    home = _absolute(variables.aht_home) / "demo"
    plain = Variables.model_construct()
    return Settings(
        demo=True,
        home=home,
        account_id=DEMO_ACCOUNT,
        keys=None,
        service_urls={},
        api_url=None,
        domain_api_url=plain.liveperson_domain_api_url,
        source=plain.aht_source,
        page_size=plain.aht_page_size,
        concurrency=plain.aht_concurrency,
        given_start_date=None,
        timezone=plain.aht_timezone,
        lookback_days=plain.aht_lookback_days,
        schedule=plain.aht_schedule,
        max_rejected_percent=plain.aht_max_rejected_percent,
        agent_names=True,
        archive_url=str(home / "archive"),
        warehouse_url=None,
        warehouse_admin_url=None,
        dagster_home=home / "dagster",
        dagster_home_is_given=False,
        alert_webhook_url=None,
        ui_url=None,
        environment={"AHT_HOME": str(_absolute(variables.aht_home))},
        unused=tuple(
            name.upper()
            for name in Variables.model_fields
            if name != "aht_home" and getattr(variables, name) != getattr(plain, name)
        ),
    )


def _real(variables: Variables, given: Given) -> Settings:
    home = _absolute(variables.aht_home)
    keys = _keys(variables)
    if keys and not variables.liveperson_account_id:
        raise SettingsError("LIVEPERSON_ACCOUNT_ID is not set, but credentials are: set it to the account's number")
    if variables.warehouse_url and not variables.aht_start_date:
        raise SettingsError(
            "AHT_START_DATE is not set: with WAREHOUSE_URL it says the first day to load, as YYYY-MM-DD"
        )
    if variables.warehouse_admin_url and not variables.warehouse_url:
        raise SettingsError(
            "WAREHOUSE_URL is not set, but WAREHOUSE_ADMIN_URL is: they name one and the same warehouse"
        )
    archive_url = variables.aht_archive_url or str(home / "archive")
    if "://" not in archive_url:
        archive_url = str(_absolute(Path(archive_url)))
    dagster_home = _absolute(variables.dagster_home) if variables.dagster_home else None
    warehouse_url = _open(variables.warehouse_url)
    return Settings(
        demo=False,
        home=home,
        account_id=variables.liveperson_account_id,
        keys=keys,
        service_urls=_service_urls(variables),
        api_url=variables.liveperson_api_url,
        domain_api_url=variables.liveperson_domain_api_url,
        source=variables.aht_source,
        page_size=variables.aht_page_size,
        concurrency=variables.aht_concurrency,
        given_start_date=variables.aht_start_date,
        timezone=variables.aht_timezone,
        lookback_days=variables.aht_lookback_days,
        schedule=variables.aht_schedule,
        max_rejected_percent=variables.aht_max_rejected_percent,
        agent_names=variables.aht_agent_names,
        archive_url=archive_url,
        warehouse_url=warehouse_url,
        warehouse_admin_url=_open(variables.warehouse_admin_url),
        dagster_home=dagster_home or home / "dagster",
        dagster_home_is_given=dagster_home is not None,
        alert_webhook_url=_open(variables.aht_alert_webhook_url),
        ui_url=variables.aht_ui_url,
        environment={
            **{name.upper(): value for name, value in given.values.items()},
            "AHT_HOME": str(home),
            "AHT_ARCHIVE_URL": archive_url,
            **({"DAGSTER_HOME": str(dagster_home)} if dagster_home else {}),
        },
    )


def process_environment(settings: Settings) -> dict[str, str]:
    """The environment for a process of Dagster's: this one's, with exactly these settings and DAGSTER_HOME."""
    others = {name: value for name, value in os.environ.items() if name.lower() not in Variables.model_fields}
    return {**others, **settings.environment, "DAGSTER_HOME": str(settings.dagster_home)}


def _keys(variables: Variables) -> ClientCredentialKeys | AppKeys | None:
    """OAuth 2.0 where a client is named, else OAuth 1.0. Raises SettingsError for half a pair."""
    client = _all_or_none(variables, "liveperson_client_id", "liveperson_client_secret")
    if client:
        return ClientCredentialKeys(*client)
    app = _all_or_none(
        variables,
        "liveperson_app_key",
        "liveperson_app_secret",
        "liveperson_access_token",
        "liveperson_access_token_secret",
    )
    return AppKeys(*app) if app else None


def _service_urls(variables: Variables) -> dict[str, str]:
    given = {service: getattr(variables, name.lower()) for service, name in URL_VARIABLES.items()}
    return {service: url for service, url in given.items() if url}


def _all_or_none(variables: Variables, *names: str) -> list[str] | None:
    values = [_open(getattr(variables, name)) for name in names]
    missing = [name.upper() for name, value in zip(names, values, strict=True) if not value]
    if missing and len(missing) < len(names):
        given = [name.upper() for name, value in zip(names, values, strict=True) if value]
        raise SettingsError(f"{', '.join(missing)}: not set, but {', '.join(given)} is: they belong together")
    return None if missing else [value for value in values if value]


def _open(value: SecretStr | str | None) -> str | None:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise SettingsError(f"{path}: there is no such user (AHT_HOME, AHT_ARCHIVE_URL and DAGSTER_HOME)") from None
