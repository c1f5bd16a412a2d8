"""The commands that serve an index: a page for people, HTTP for programs."""

from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("serve", "search an index in the browser, or by HTTP")
def _serve(options: "Options") -> Run:
    """Serves an index: a page to drop pictures in, and the same as an HTTP interface (/openapi.json
    describes it). Only this computer is answered, and nothing can be changed, unless you say
    otherwise. docs/serve.md tells more.

    examples:
      fieldmark serve --index shop.index
      fieldmark serve --index shop.index --host 0.0.0.0 --token_file secret.txt
    """
    from fieldmark.search.service.config import ServiceConfig

    options.config(ServiceConfig)

    def run(given: "Given") -> None:
        try:
            from fieldmark.search.service.server import serve
        except ModuleNotFoundError as error:
            raise ValueError(
                f"serving needs {error.name}, which is not installed: pip install 'fieldmark[serve]'"
            ) from error
        serve(given.config)

    return run


@command("demo serve", "search the demo's pictures in the browser")
def _demo_serve(options: "Options") -> Run:
    """Indexes the pictures of the demo's unseen species with the encoder that the demo trained, if that
    was not done yet, and serves them on this computer. `fieldmark demo` has to be finished.

    example:
      fieldmark demo serve --out runs/demo
    """
    from fieldmark.experiments.serve_demo import ServeDemoConfig

    options.config(ServeDemoConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.serve_demo import serve_demo

        serve_demo(given.config)

    return run
