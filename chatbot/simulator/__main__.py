"""``python -m chatbot.simulator``: the simulator as a process of its own."""

from __future__ import annotations

import argparse
import signal
import threading

from werkzeug.serving import make_server

from chatbot.simulator import Simulator, create_app


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m chatbot.simulator", description=__doc__)
    parser.add_argument("--webhook-url", required=True, help="where signed webhooks are posted")
    parser.add_argument("--app-secret", required=True, help="what they are signed with")
    parser.add_argument("--phone-number-id", default="100000000000001")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    simulator = Simulator(
        webhook_url=given.webhook_url, app_secret=given.app_secret, phone_number_id=given.phone_number_id
    )
    server = make_server(given.host, given.port, create_app(simulator), threaded=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    simulator.start()
    thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
    thread.start()
    print(f"http://{given.host}:{given.port}/simulator", flush=True)
    ended.wait()
    simulator.close()
    server.shutdown()
    thread.join(5)


if __name__ == "__main__":
    main()
