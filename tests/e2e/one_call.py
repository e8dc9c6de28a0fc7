"""`python -m tests.e2e.one_call MODULE SPACE DIRECTORY SETTINGS`: what a module of the tests has, given to one call."""

import json
import sys

from autocompress import compress
from autocompress.compression.module_loading import ModuleReference


def main(module, space, directory, settings):
    made = ModuleReference.parse(module).load()
    return compress(
        made.model(),
        made.evaluator(),
        lambda model, optimizer, epoch: made.train_epoch(model, optimizer, None, epoch),
        made.optimizer_factory(),
        example_inputs=made.example_inputs(),
        search_space=space,
        settings=json.loads(settings),
        directory=directory,
    )


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
