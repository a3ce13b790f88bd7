"""Every connection to RabbitMQ: of workers, senders and beat, of publishers and of commands.

Promises: a broker that is away is asked for every one to two seconds, for ever (Celery asks ever
more seldom, up to every 30 s, and has no setting for that: after an outage whoever writes would
wait that long for a worker). One that refuses us is not asked again, because only a person can
mend that: ``BrokerRefused`` names the setting. With ``amqps://`` the server's name is checked.
"""

from __future__ import annotations

import random
import ssl
from typing import Any, Self

import kombu
from amqp.exceptions import AccessRefused, NotAllowed, RecoverableConnectionError
from kombu.connection import ConnectionPool, PooledConnection

from chatbot.errors import BrokerRefused

#: Before the next try (seconds); each process draws its own, so that not all come at one moment.
RETRY_SECONDS = (1.0, 2.0)


class Connection(kombu.Connection):
    """A connection that is tried again every one to two seconds until it is there, unless it is refused."""

    ssl: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        given = self.ssl
        if self.transport_cls != "amqps":
            self.ssl = False
        elif isinstance(given, dict) and "server_hostname" in given:
            # A copy: the options of all connections are one dictionary, and kombu would write into it.
            self.ssl = {**given, "server_hostname": self.hostname}

    def ensure_connection(self, *arguments: Any, **options: Any) -> Self:
        """Return once connected, as kombu's does, which takes the pauses from here unless it is given others.

        Raises ``BrokerRefused``.
        """
        pause = random.uniform(*RETRY_SECONDS)  # noqa: S311  # jitter
        pauses = {"interval_start": pause, "interval_step": 0, "interval_max": pause}
        return super().ensure_connection(*arguments, **{**pauses, **options})  # type: ignore[no-any-return]

    def Pool(self, limit: int | None = None, **options: Any) -> ConnectionPool:  # noqa: N802  # as kombu calls it
        """Return a pool of connections like this one; kombu's would be of its own class."""
        return _Pool(self, limit, **options)

    def _establish_connection(self) -> Any:
        try:
            return super()._establish_connection()
        except AccessRefused as err:
            raise BrokerRefused(f"RabbitMQ refuses the user or the password in {self._named}") from err
        except NotAllowed as err:
            # The same code stands for a limit of connections, which passes; only its text says so.
            if "limit" in str(err.reply_text):
                raise RecoverableConnectionError(err.reply_text) from err
            raise BrokerRefused(
                f"RabbitMQ does not let this user into the virtual host {self.virtual_host!r} of {self._named}; "
                "see `rabbitmqctl list_vhosts` and `rabbitmqctl list_permissions -p …`"
            ) from err
        except ssl.SSLCertVerificationError as err:
            raise BrokerRefused(
                f"the broker's certificate is not to be trusted ({err.verify_message}): check the host in "
                f"{self._named}, and CHATBOT_BROKER_TLS_CA"
            ) from err

    @property
    def _named(self) -> str:
        return f"CHATBOT_BROKER_URL (it is {self.as_uri()})"


class _Pooled(PooledConnection, Connection):
    """A connection of a pool."""


class _Pool(ConnectionPool):
    def new(self) -> _Pooled:
        return _Pooled(self, **dict(self.connection._info(resolve=False)))  # noqa: SLF001  # as kombu's own
