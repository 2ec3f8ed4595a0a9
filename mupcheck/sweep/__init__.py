"""A sweep from its spec to files: the plan, the runner and the engines that execute it."""
