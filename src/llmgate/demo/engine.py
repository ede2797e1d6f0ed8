"""One llama.cpp engine in a process of its own: `python -m llmgate.demo.engine --model FILE --alias NAME`.

It prints its address on standard output once the model is loaded and it answers, errors go to standard error, and it
serves until SIGTERM or, with `--with-parent`, until its standard input ends: a parent that dies takes it along.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Host memory in which llama.cpp keeps prompts that lost their slot, MiB; its default of 8192 would fill a laptop.
PROMPT_CACHE_MIB: Final = 256
ERRORS_ONLY: Final = 1  # llama.cpp's verbosity; from 3 upwards it logs every request
BIND_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one engine serves, and with how much of the machine.

    `ctx` is tokens in total, shared out evenly among the `slots` (requests served at the same time). Port 0 takes a
    free one.
    """

    model: Path
    alias: str
    port: int = 0
    ctx: int = 8192
    slots: int = 4
    threads: int = 1


def serve(options: EngineOptions) -> Any:
    """Loads the model and serves it from threads of llama.cpp; returns its server, which lives as long as the object.

    Raises ImportError without the `demo` extra and RuntimeError when llama.cpp cannot load the model or take the port.
    """
    import xllamacpp  # 34 MB, and an extra: only this process pays for it

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias}
    params.hostnames = [BIND_HOST]
    params.port = options.port
    params.n_ctx = options.ctx
    params.n_parallel = options.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.cache_prompt = True  # a follow-up request pays only for its new tokens
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.endpoint_metrics = params.endpoint_slots = True
    params.ui = False
    params.verbosity = ERRORS_ONLY
    return xllamacpp.Server(params)


def parse(argv: Sequence[str] | None) -> tuple[EngineOptions, bool]:
    defaults = EngineOptions(Path(), "")
    parser = argparse.ArgumentParser(prog="python -m llmgate.demo.engine", description="Serve one llama.cpp engine.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="model name that clients send")
    parser.add_argument("--port", type=int, default=defaults.port, help="0 (default) takes a free one")
    parser.add_argument("--ctx", type=int, default=defaults.ctx, help="tokens, shared among the slots (%(default)s)")
    parser.add_argument("--slots", type=int, default=defaults.slots, help="requests at the same time (%(default)s)")
    parser.add_argument("--threads", type=int, default=defaults.threads, help="CPU threads (%(default)s)")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    args = vars(parser.parse_args(argv))
    with_parent = bool(args.pop("with_parent"))
    return EngineOptions(**args), with_parent


def main(argv: Sequence[str] | None = None) -> None:
    # Nothing here needs saving, so a signal may end the process at once, even in the middle of a load.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    options, with_parent = parse(argv)
    try:
        server = serve(options)
    except ImportError as error:
        sys.exit(f"xllamacpp is missing or broken ({error}): install llmgate-lb[demo]")
    except RuntimeError as error:
        sys.exit(f"llama.cpp could not serve {options.model}: {error}")
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    if with_parent:
        sys.stdin.buffer.read()
        # Not sys.exit: it would wait for the requests in flight, and nobody is left to read them.
        signal.raise_signal(signal.SIGTERM)
    signal.pause()


if __name__ == "__main__":
    main()
